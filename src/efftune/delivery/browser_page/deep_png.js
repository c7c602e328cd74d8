// PNG pictures of 16 bits. Browsers show them with 8, and drop what the classifier was trained on:
// which values are black and white (see efftune.data.bit_depth).

const WHITES = [1, 255, 1023, 4095, 16383, 65535];
const LEAST_USED = 0.25; // of a range from 0: values that fill less get a range of their own
const SAMPLED = 500_000;
const CHANNELS = { 0: 1, 2: 3, 4: 2, 6: 4 }; // by colour type
const MOST_PIXELS = 89_000_000;
const PASSES = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
]; // of interlaced pictures: first column and row, steps of columns and rows

/** Whether these are the bytes of a PNG file of 16 bits a channel. */
export function isDeepPng(bytes) {
  const head = String.fromCharCode(...bytes.subarray(0, 16));
  return head.startsWith("\x89PNG\r\n\x1a\n") && head.endsWith("IHDR") && bytes[24] === 16;
}

/**
 * Decode a PNG picture of 16 bits.
 *
 * @param {Uint8Array} bytes
 * @param {?number[]} depth the values of black and white; null for those of the picture itself
 * @returns {Promise<{width: number, height: number, data: Uint8ClampedArray}>} opaque, on white
 */
export async function deepPng(bytes, depth) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const [width, height, colour, interlaced] = [view.getUint32(16), view.getUint32(20), bytes[25], bytes[28]];
  const channels = CHANNELS[colour];
  if (!channels || width * height > MOST_PIXELS) throw new Error("not a picture of 16 bits");
  const values = new Uint16Array(width * height * channels);
  const packed = new Blob(compressed(bytes, view));
  const stream = packed.stream().pipeThrough(new DecompressionStream("deflate"));
  const lines = new Uint8Array(await new Response(stream).arrayBuffer());
  let start = 0;
  for (const [left, top, stepX, stepY] of interlaced ? PASSES : [[0, 0, 1, 1]]) {
    const across = Math.ceil((width - left) / stepX);
    const down = Math.ceil((height - top) / stepY);
    if (across <= 0 || down <= 0) continue;
    const length = 2 * channels * across;
    unfilter(lines, start, length, down, 2 * channels);
    for (let y = 0; y < down; y++) {
      let from = start + y * (length + 1) + 1;
      for (let x = 0; x < across; x++) {
        const to = ((top + y * stepY) * width + left + x * stepX) * channels;
        for (let channel = 0; channel < channels; channel++, from += 2) {
          values[to + channel] = (lines[from] << 8) | lines[from + 1];
        }
      }
    }
    start += down * (length + 1);
  }
  return { width, height, data: shown(values, width, height, channels, depth) };
}

function compressed(bytes, view) {
  const parts = [];
  for (let i = 8; i + 12 <= bytes.length; ) {
    const length = view.getUint32(i);
    if (String.fromCharCode(...bytes.subarray(i + 4, i + 8)) === "IDAT") {
      parts.push(bytes.subarray(i + 8, i + 8 + length));
    }
    i += length + 12;
  }
  return parts;
}

/** Undo the filters of lines in place; see section 9 of the PNG specification. */
function unfilter(lines, start, length, count, step) {
  if (lines.length < start + count * (length + 1)) throw new Error("cut off");
  for (let y = 0; y < count; y++) {
    const row = start + y * (length + 1) + 1;
    const kind = lines[row - 1];
    if (kind > 4) throw new Error("damaged");
    for (let x = 0; x < length && kind; x++) {
      const a = x >= step ? lines[row + x - step] : 0;
      const b = y ? lines[row + x - length - 1] : 0;
      const c = y && x >= step ? lines[row + x - step - length - 1] : 0;
      lines[row + x] += [0, a, b, (a + b) >> 1, kind === 4 ? paeth(a, b, c) : 0][kind];
    }
  }
}

function paeth(a, b, c) {
  const [toA, toB, toC] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  if (toA <= toB && toA <= toC) return a;
  return toB <= toC ? b : c;
}

function shown(values, width, height, channels, depth) {
  const colours = channels < 3 ? 1 : 3;
  const table = eightBits(depth ?? usualRange(values, width, height, channels, colours));
  const data = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let i = 0, o = 0; i < values.length; i += channels, o += 4) {
    const opacity = channels === 2 || channels === 4 ? Math.round(values[i + channels - 1] / 257) : 255;
    for (let channel = 0; channel < 3; channel++) {
      const value = table[values[i + (colours === 1 ? 0 : channel)]];
      data[o + channel] = 255 - Math.round(((255 - value) * opacity) / 255);
    }
  }
  return data;
}

function eightBits([black, white]) {
  const table = new Uint8ClampedArray(65536); // which rounds halves to even numbers and clips
  const factor = Math.fround(255 / (white - black));
  for (let value = 0; value < table.length; value++) {
    if (white <= black) table[value] = value > 0 ? 255 : 0;
    else table[value] = Math.fround(Math.fround(value - black) * factor);
  }
  return table;
}

/** The smallest usual range that holds the values but for 0.1 % on each side. */
function usualRange(values, width, height, channels, colours) {
  const step = Math.max(1, Math.floor(Math.sqrt((width * height * colours) / SAMPLED)));
  const counts = new Uint32Array(65536);
  let total = 0;
  for (let y = 0; y < height; y += step) {
    for (let x = 0; x < width; x += step) {
      for (let channel = 0; channel < colours; channel++, total++) {
        counts[values[(y * width + x) * channels + channel]]++;
      }
    }
  }
  const at = (rank) => {
    let value = 0;
    for (let seen = counts[0]; seen <= rank; seen += counts[++value]);
    return value;
  };
  const low = at(Math.floor(0.001 * (total - 1)));
  const high = at(Math.ceil(0.999 * (total - 1)));
  const white = WHITES.find((each) => high <= each);
  return high > low && high - low < LEAST_USED * white ? [low, high] : [0, white];
}
