/** Registers the service worker, and waits until it has what the page needs without a network, but not for ever. */
export async function offline(): Promise<void> {
  if (!import.meta.env.PROD || !("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register("/sw.js");
    await Promise.race([navigator.serviceWorker.ready, new Promise((resolve) => setTimeout(resolve, 10_000))]);
  } catch {
    // Private modes refuse; the page then works as long as there is a network.
  }
}
