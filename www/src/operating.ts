/** Scores of texts whose label is known: the share of harmless and of harmful ones in each of `bins` equal steps from 0 to 1. */
export interface Operating {
  source: string;
  bins: number;
  safe: number[];
  unsafe: number[];
}

/** What a threshold does. */
export interface Rates {
  /** Share of the harmful texts that are held back. */
  recall: number;
  /** Share of the harmless texts that are held back, by mistake. */
  fallout: number;
  /** Share of the held back texts that are harmful, were there as many harmful ones as harmless. `null` where nothing is held back. */
  precision: number | null;
}

/** Fetches the data beside the model; `null` where there is none, or none that can be used. */
export async function operating(model: string): Promise<Operating | null> {
  try {
    const response = await fetch(new URL("operating.json", new URL(model, document.baseURI)));
    const found = (await response.json()) as Operating;
    const whole = (shares: unknown) => Array.isArray(shares) && shares.length === found.bins && shares.every((share) => Number.isFinite(share) && share >= 0);
    return response.ok && found.bins > 1 && whole(found.safe) && whole(found.unsafe) ? found : null;
  } catch {
    return null;
  }
}

/** Share of the scores from `threshold` on; within a bin they are taken to lie evenly. */
function from(shares: number[], threshold: number): number {
  const at = threshold * shares.length;
  const bin = Math.min(Math.floor(at), shares.length - 1);
  let sum = (shares[bin] ?? 0) * (bin + 1 - at);
  for (let next = bin + 1; next < shares.length; next++) sum += shares[next] ?? 0;
  return Math.min(1, sum);
}

export function rates({ safe, unsafe }: Operating, threshold: number): Rates {
  const recall = from(unsafe, threshold);
  const fallout = from(safe, threshold);
  return { recall, fallout, precision: recall + fallout > 0 ? recall / (recall + fallout) : null };
}
