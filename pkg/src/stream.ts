/** @internal A stream that `for await` takes in every browser: Safari's own streams are not iterable yet. */
export function iterable<T>(stream: ReadableStream<T>): ReadableStream<T> {
  if (!(Symbol.asyncIterator in stream)) Object.defineProperty(stream, Symbol.asyncIterator, { value: () => chunks(stream) });
  return stream;
}

/** @internal What a stream holds; leaving the loop early cancels the stream. */
export async function* chunks<T>(stream: ReadableStream<T>): AsyncGenerator<T> {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    void reader.cancel().catch(() => {});
  }
}

/** @internal All of a stream of text. */
export async function whole(stream: ReadableStream<string>): Promise<string> {
  let text = "";
  for await (const piece of chunks(stream)) text += piece;
  return text;
}
