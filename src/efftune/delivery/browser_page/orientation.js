// EXIF orientation. Browsers apply it to some formats and not to others, and to decoded pixels only;
// efftune applies it to all, after it has made a JPEG smaller. So it is taken out of a file here.

const TAG = 0x0112;
const TIFF = { JPEG: ofJpeg, PNG: ofPng, WebP: ofWebp }; // where the EXIF data begin

/**
 * Take the orientation out of a file: `bytes` then say that the picture is upright.
 *
 * @param {Uint8Array} bytes
 * @param {string} format
 * @returns {number} 1 to 8; 1 is upright
 */
export function takenOut(bytes, format) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  try {
    const start = TIFF[format]?.(bytes, view) ?? -1;
    return start < 0 ? 1 : replaced(view, start);
  } catch (error) {
    if (error instanceof RangeError) return 1; // damaged EXIF data are no reason to reject the pixels
    throw error;
  }
}

function replaced(view, start) {
  const little = view.getUint8(start) === 0x49;
  const directory = start + view.getUint32(start + 4, little);
  for (let i = 0; i < view.getUint16(directory, little); i++) {
    const entry = directory + 2 + 12 * i;
    if (view.getUint16(entry, little) !== TAG) continue;
    const value = view.getUint16(entry + 8, little);
    view.setUint16(entry + 8, 1, little);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

const textAt = (bytes, start, length) => String.fromCharCode(...bytes.subarray(start, start + length));

function ofJpeg(bytes, view) {
  for (let i = 2; bytes[i] === 0xff && bytes[i + 1] !== 0xda; i += 2 + view.getUint16(i + 2)) {
    if (bytes[i + 1] === 0xe1 && textAt(bytes, i + 4, 6) === "Exif\0\0") return i + 10;
  }
  return -1;
}

function ofPng(bytes, view) {
  for (let i = 8; i + 12 <= bytes.length; i += 12 + view.getUint32(i)) {
    if (textAt(bytes, i + 4, 4) === "eXIf") return i + 8;
  }
  return -1;
}

function ofWebp(bytes, view) {
  for (let i = 12; i + 8 <= bytes.length; ) {
    const length = view.getUint32(i + 4, true);
    if (textAt(bytes, i, 4) === "EXIF") return i + 8 + (textAt(bytes, i + 8, 6) === "Exif\0\0" ? 6 : 0);
    i += 8 + length + (length % 2);
  }
  return -1;
}

/**
 * A picture, turned and mirrored to be upright.
 *
 * @param {{width: number, height: number, read: Function}} picture
 * @param {number} orientation of EXIF, 1 to 8
 */
export function upright(picture, orientation) {
  if (orientation === 1) return picture;
  const transposed = orientation >= 5;
  const mirroredX = [2, 3, 7, 8].includes(orientation); // of the stored columns, or rows if transposed
  const mirroredY = [3, 4, 6, 7].includes(orientation);
  const [flipX, flipY] = transposed ? [mirroredY, mirroredX] : [mirroredX, mirroredY];
  const width = transposed ? picture.height : picture.width;
  const height = transposed ? picture.width : picture.height;
  const read = (left, top, across, down) => {
    const x = flipX ? width - left - across : left;
    const y = flipY ? height - top - down : top;
    const stored = transposed ? picture.read(y, x, down, across) : picture.read(x, y, across, down);
    const from = new Uint32Array(stored.data.buffer);
    const turned = new ImageData(across, down);
    const to = new Uint32Array(turned.data.buffer);
    for (let row = 0, o = 0; row < down; row++) {
      const oldY = flipY ? down - 1 - row : row;
      for (let column = 0; column < across; column++, o++) {
        const oldX = flipX ? across - 1 - column : column;
        to[o] = from[transposed ? oldX * down + oldY : oldY * across + oldX];
      }
    }
    return turned;
  };
  return { ...picture, width, height, read };
}
