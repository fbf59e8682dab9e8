import { draw } from "./dom.js";
import { rates, type Operating } from "./operating.js";

/** Low shares would vanish beside the peaks: heights grow with the square root. */
const height = (share: number, most: number) => Math.sqrt(share / most);

function line(x1: number, y1: number, x2: number, y2: number, className: string): SVGElement {
  return draw("line", { x1, y1, x2, y2, class: className, "vector-effect": "non-scaling-stroke" });
}

/** Harmless scores above the axis, harmful ones below it. What falls on the wrong side of the threshold is drawn strong. */
export function distribution(svg: SVGSVGElement, data: Operating, threshold: number): void {
  const most = Math.max(...data.safe, ...data.unsafe);
  const bars: SVGElement[] = [];
  for (let bin = 0; bin < data.bins; bin++) {
    const x = (bin / data.bins) * 100;
    const width = (100 / data.bins) * 0.8;
    const held = (bin + 0.5) / data.bins >= threshold;
    const up = height(data.safe[bin] ?? 0, most) * 48;
    const down = height(data.unsafe[bin] ?? 0, most) * 48;
    if (up > 0) bars.push(draw("rect", { x, y: 50 - up, width, height: up, class: held ? "harmless wrong" : "harmless" }));
    if (down > 0) bars.push(draw("rect", { x, y: 50, width, height: down, class: held ? "harmful" : "harmful wrong" }));
  }
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren(...bars, line(0, 50, 100, 50, "base"), line(threshold * 100, 0, threshold * 100, 100, "mark"));
  const { recall, fallout } = rates(data, threshold);
  svg.setAttribute(
    "aria-label",
    `Scores of harmless and harmful test messages. At ${threshold.toFixed(2)}, ${percent(fallout)} of the harmless and ${percent(recall)} of the harmful ones are held back.`,
  );
}

/** Precision over recall for every threshold, with a dot at the present one. */
export function curve(svg: SVGSVGElement, data: Operating, threshold: number): void {
  const points: string[] = [];
  for (let step = 0; step <= 100; step++) {
    const { recall, precision } = rates(data, step / 100);
    if (precision !== null) points.push(`${(recall * 100).toFixed(2)},${((1 - precision) * 200).toFixed(2)}`);
  }
  const { recall, precision } = rates(data, threshold);
  const x = recall * 100;
  // Below one half is worse than chance at an even mix: the axis begins there.
  const y = (1 - (precision ?? 1)) * 200;
  svg.setAttribute("viewBox", "-3 -3 106 106");
  svg.replaceChildren(
    draw("rect", { x: 0, y: 0, width: 100, height: 100, class: "frame" }),
    draw("polyline", { points: points.join(" "), class: "path" }),
    line(x, y, x, 100, "guide"),
    line(0, y, x, y, "guide"),
    draw("circle", { cx: x, cy: y, r: 2.5, class: "here" }),
  );
  svg.setAttribute("aria-label", `Precision over recall. At this threshold, precision is ${precision === null ? "unknown" : percent(precision)} and recall ${percent(recall)}.`);
}

/** How many of `scores` fall in each of `bins` steps, with a line at the threshold. */
export function histogram(svg: SVGSVGElement, scores: readonly number[], threshold: number, bins = 50): void {
  const counts = new Array<number>(bins).fill(0);
  for (const score of scores) {
    const bin = Math.min(bins - 1, Math.floor(score * bins));
    counts[bin] = (counts[bin] ?? 0) + 1;
  }
  const most = Math.max(1, ...counts);
  const bars = counts.flatMap((count, bin) => {
    if (count === 0) return [];
    const tall = height(count, most) * 96;
    const held = (bin + 0.5) / bins >= threshold;
    return [draw("rect", { x: (bin / bins) * 100, y: 100 - tall, width: (100 / bins) * 0.8, height: tall, class: held ? "harmful" : "harmless" })];
  });
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren(...bars, line(0, 100, 100, 100, "base"), line(threshold * 100, 0, threshold * 100, 100, "mark"));
  const over = scores.filter((score) => score >= threshold).length;
  svg.setAttribute("aria-label", `Histogram of ${scores.length} scores; ${over} from ${threshold.toFixed(2)} on.`);
}

export const percent = (share: number): string => `${Math.round(share * 100)}%`;
