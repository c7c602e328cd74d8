// From the bytes of a picture to the square that the model gets, step by step as efftune does it in
// Python (efftune.data.images and efftune.data.resizing), so that both answer alike. The browser
// decodes; it never scales, because each browser scales in its own way.

import { deepPng, isDeepPng } from "./deep_png.js";
import { takenOut, upright } from "./orientation.js";

const MOST_PIXELS = 89_000_000; // as efftune reads at most
const TILE = 1024; // side of what is read from a picture at once: canvases are limited in size
const GREY = 127; // around padded pictures
const WEIGHT = 2048; // of interpolation, in whole numbers, as OpenCV computes it

const SIGNATURES = [
  [/^\xff\xd8\xff/, "JPEG"],
  [/^\x89PNG\r\n\x1a\n/, "PNG"],
  [/^RIFF[^]{4}WEBP/, "WebP"],
  [/^GIF8[79]a/, "GIF"],
  [/^BM/, "BMP"],
  [/^[^]{4}ftyp(avif|avis)/, "AVIF"],
  [/^[^]{4}ftyp(hei|hev|mif1|msf1)/, "HEIC"],
  [/^(II[*+]\0|MM\0[*+])/, "TIFF"],
  [/^[^]{128}DICM/, "DICOM"],
  [/^(\0{3}\x0cjP {2}|\xff\x4f\xff\x51)/, "JPEG 2000"],
  [/^(\xff\x0a|\0{3}\x0cJXL )/, "JPEG XL"],
  [/^8BPS/, "Photoshop"],
  [/^\s*(<\?xml[^]*?)?<svg/i, "SVG"],
];
const EVERYWHERE = ["JPEG", "PNG", "WebP", "GIF", "BMP"];

/** A picture that cannot be answered; its message is for people. */
export class Unreadable extends Error {}

/**
 * A picture whose parts can be read.
 *
 * @typedef {Object} Picture
 * @property {number} width in pixels
 * @property {number} height in pixels
 * @property {(left: number, top: number, width: number, height: number) => ImageData} read opaque
 */

/**
 * Decode a file.
 *
 * @param {Blob} blob
 * @param {{image_size: number, depth: ?number[]}} settings
 * @param {(picture: Picture) => Result} use what to do with it; a large JPEG has been made smaller
 * @returns {Promise<Result>}
 * @throws {Unreadable}
 */
export async function decoded(blob, settings, use) {
  const bytes = new Uint8Array(await contentOf(blob));
  if (!bytes.length) throw new Unreadable("The file is empty.");
  const format = formatOf(bytes);
  if (format === "SVG") throw new Unreadable(unknown(format));
  if (format === "JPEG" && isCutOff(bytes)) throw new Unreadable("The picture is cut off.");
  const orientation = takenOut(bytes, format);
  if (isDeepPng(bytes)) {
    const array = await deepPng(bytes, settings.depth).catch(() => {
      throw new Unreadable(unknown(format));
    });
    return use(upright(ofArray(array), orientation));
  }
  // Colours are converted to sRGB, as by default.
  const bitmap = await createImageBitmap(new Blob([bytes]), { premultiplyAlpha: "none" }).catch(() => {
    throw new Unreadable(unknown(format));
  });
  return ofBitmap(bitmap, (picture) => {
    const scale = format === "JPEG" ? reducedScale(bitmap, settings.image_size) : 1;
    const smaller = scale > 1 ? reduced(picture, everything(picture), [scale, scale]) : picture;
    return use(upright(smaller, orientation));
  });
}

/** Use a picture of the browser, and close it. */
export function ofBitmap(bitmap, use) {
  const { width, height } = bitmap;
  try {
    if (width * height > MOST_PIXELS) throw new Unreadable("The picture is too large.");
    const canvas = new OffscreenCanvas(Math.min(width, TILE), Math.min(height, TILE));
    const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
    const read = (left, top, across, down) => {
      if (canvas.width < across) canvas.width = across;
      if (canvas.height < down) canvas.height = down;
      context.fillStyle = "white"; // what is transparent becomes white
      context.fillRect(0, 0, across, down);
      context.drawImage(bitmap, left, top, across, down, 0, 0, across, down);
      return context.getImageData(0, 0, across, down);
    };
    return use({ width, height, read });
  } finally {
    bitmap.close();
  }
}

function ofArray({ width, height, data }) {
  const read = (left, top, across, down) => {
    const part = new ImageData(across, down);
    for (let y = 0; y < down; y++) {
      const start = 4 * ((top + y) * width + left);
      part.data.set(data.subarray(start, start + 4 * across), 4 * y * across);
    }
    return part;
  };
  return { width, height, read };
}

/**
 * The square that the model gets.
 *
 * @param {Picture} picture
 * @param {number} size side of the square
 * @param {"crop" | "stretch" | "pad"} fit
 * @returns {Float32Array} (size, size, 3): red, green, blue, 0 to 255
 */
export function square(picture, size, fit) {
  if (fit !== "pad") return Float32Array.from(resized(picture, boxOf(picture, fit), size, size));
  const { width, height } = picture;
  const scale = size / Math.max(width, height);
  const across = Math.max(1, nearest(width * scale));
  const down = Math.max(1, nearest(height * scale));
  const part = resized(picture, everything(picture), across, down);
  const left = (size - across) >> 1;
  const top = (size - down) >> 1;
  const padded = new Float32Array(3 * size * size).fill(GREY);
  for (let y = 0; y < down; y++) {
    padded.set(part.subarray(3 * y * across, 3 * (y + 1) * across), 3 * ((top + y) * size + left));
  }
  return padded;
}

/**
 * What is looked at of a picture, for people, with its aspect ratio.
 *
 * @param {Picture} picture
 * @param {number} side the longest
 * @param {"crop" | "stretch" | "pad"} fit
 * @returns {ImageData}
 */
export function thumbnail(picture, side, fit) {
  const box = boxOf(picture, fit);
  const scale = Math.min(1, side / Math.max(box[2], box[3]));
  const [across, down] = [box[2], box[3]].map((each) => Math.max(1, nearest(each * scale)));
  const pixels = resized(picture, box, across, down);
  const image = new ImageData(across, down);
  for (let i = 0, o = 0; i < pixels.length; image.data[o++] = 255) {
    for (let channel = 0; channel < 3; channel++) image.data[o++] = pixels[i++];
  }
  return image;
}

/** Left, top, width and height of the part that is looked at. */
function boxOf({ width, height }, fit) {
  const side = Math.min(width, height);
  return fit === "crop" ? [(width - side) >> 1, (height - side) >> 1, side, side] : [0, 0, width, height];
}

const everything = ({ width, height }) => [0, 0, width, height];

/** Whole numbers as Python rounds: halves to the even one. */
function nearest(value) {
  const below = Math.floor(value);
  return below + (value - below > 0.5 || (value - below === 0.5 && below % 2 === 1) ? 1 : 0);
}

/** Crop to a box (left, top, width, height), average blocks of pixels, and interpolate the rest. */
function resized(source, box, across, down) {
  const factors = [Math.max(1, Math.floor(box[2] / across)), Math.max(1, Math.floor(box[3] / down))];
  return interpolated(reduced(source, box, factors), across, down);
}

/** Averages of blocks of pixels, as Pillow's `Image.reduce` rounds them. */
function reduced(source, [left, top, width, height], [fx, fy]) {
  const across = Math.ceil(width / fx);
  const down = Math.ceil(height / fy);
  const sums = new Uint32Array(3 * across * down);
  const stepX = fx * Math.max(1, Math.floor(TILE / fx));
  const stepY = fy * Math.max(1, Math.floor(TILE / fy));
  for (let y = 0; y < height; y += stepY) {
    for (let x = 0; x < width; x += stepX) {
      const tile = source.read(left + x, top + y, Math.min(stepX, width - x), Math.min(stepY, height - y));
      add(tile, sums, 3 * ((y / fy) * across + x / fx), across, [fx, fy]);
    }
  }
  const data = new Uint8ClampedArray(4 * across * down).fill(255);
  for (let y = 0, i = 0, o = 0; y < down; y++) {
    const rows = Math.min(fy, height - y * fy);
    for (let x = 0; x < across; x++, o++) {
      const count = rows * Math.min(fx, width - x * fx);
      const multiplier = Math.floor(Math.fround(2 ** 24 / count));
      const half = count >> 1;
      for (let channel = 0; channel < 3; channel++) {
        data[o++] = Math.floor(((sums[i++] + half) * multiplier) / 2 ** 24);
      }
    }
  }
  return ofArray({ width: across, height: down, data });
}

function add({ width, height, data }, sums, start, across, [fx, fy]) {
  for (let y = 0, i = 0; y < height; y++) {
    const row = start + 3 * across * Math.floor(y / fy);
    for (let x = 0; x < width; x++, i++) {
      const o = row + 3 * Math.floor(x / fx);
      sums[o] += data[i++];
      sums[o + 1] += data[i++];
      sums[o + 2] += data[i++];
    }
  }
}

/** Linear interpolation as OpenCV's `resize` computes it, to (down, across, 3). */
function interpolated(source, across, down) {
  const { width, height } = source;
  const { data } = source.read(0, 0, width, height);
  const columns = places(width, across);
  const rows = places(height, down);
  const line = (y) => {
    const made = new Int32Array(3 * across);
    for (let x = 0; x < across; x++) {
      const [a, b, weightA, weightB] = columns[x];
      for (let channel = 0; channel < 3; channel++) {
        const row = 4 * y * width + channel;
        made[3 * x + channel] = data[row + 4 * a] * weightA + data[row + 4 * b] * weightB;
      }
    }
    return made;
  };
  const lines = new Map();
  const lineOf = (y) => {
    if (!lines.has(y)) lines.set(y, line(y));
    return lines.get(y);
  };
  const result = new Uint8ClampedArray(3 * across * down);
  for (let y = 0, o = 0; y < down; y++) {
    const [a, b, weightA, weightB] = rows[y];
    const above = lineOf(a);
    const below = lineOf(b);
    for (let i = 0; i < 3 * across; i++) {
      result[o++] = (((weightA * (above[i] >> 4)) >> 16) + ((weightB * (below[i] >> 4)) >> 16) + 2) >> 2;
    }
  }
  return result;
}

/** For each new pixel: the two old ones that it lies between, and their weights. */
function places(from, to) {
  return Array.from({ length: to }, (_, i) => {
    const place = Math.fround((i + 0.5) * (from / to) - 0.5);
    const first = Math.floor(place);
    if (first < 0) return [0, 0, WEIGHT, 0];
    if (first >= from - 1) return [from - 1, from - 1, WEIGHT, 0];
    const share = Math.fround(place - first);
    return [first, first + 1, nearest(Math.fround(1 - share) * WEIGHT), nearest(share * WEIGHT)];
  });
}

/** Efftune decodes a large JPEG at a reduced scale, whose pixels are averages of blocks. */
function reducedScale({ width, height }, size) {
  const most = Math.min(Math.floor(width / size), Math.floor(height / size));
  return [8, 4, 2].find((scale) => scale <= most) ?? 1;
}

function formatOf(bytes) {
  const head = String.fromCharCode(...bytes.subarray(0, 512));
  return SIGNATURES.find(([signature]) => signature.test(head))?.[1] ?? "";
}

/** Where the pixels of a JPEG begin: thumbnails before that have end markers of their own. */
function startOfScan(bytes) {
  let i = 2;
  while (bytes[i] === 0xff && bytes[i + 1] !== 0xda) i += 2 + ((bytes[i + 2] << 8) | bytes[i + 3]);
  return i;
}

/** Whether the end marker of a JPEG is missing: browsers would show the part that is there. */
function isCutOff(bytes) {
  for (let i = bytes.length - 2; i > startOfScan(bytes); i--) {
    if (bytes[i] === 0xff && bytes[i + 1] === 0xd9) return false;
  }
  return true;
}

function unknown(format) {
  if (EVERYWHERE.includes(format)) return "The picture is damaged or cut off.";
  if (!format) return "This file is not a picture that browsers can open.";
  return `This browser cannot open ${format} files. Save the picture as JPEG or PNG.`;
}

async function contentOf(blob) {
  try {
    return await blob.arrayBuffer();
  } catch {
    throw new Unreadable("The file cannot be read. Is it a folder?");
  }
}
