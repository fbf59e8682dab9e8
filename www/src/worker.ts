// The guardian's worker, which also tells the page what it asks of the network: a page can't see its workers' requests.

import "slm-guardian/worker";

new PerformanceObserver((list) => {
  const requests = list.getEntries().map(({ name, startTime }) => ({ url: name, at: performance.timeOrigin + startTime }));
  self.postMessage({ id: -1, requests });
}).observe({ type: "resource", buffered: true });
