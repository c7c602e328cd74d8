// The server: whether it answers, its token, and what it is asked.

const TOKEN = "efftune-token"; // in the storage of this tab
const AGAIN = 2000; // milliseconds until a server that did not answer is asked again
const MOST_FAILURES = 3; // of the connection, for one picture, while the server answers otherwise

/** The server does not answer this, and will not. */
export class Refused extends Error {}

let info; // what is served; undefined while that is not known
let connecting; // to know it
let listen = () => {};
let entered = () => {};

/** Tell a function whenever the server is `ready`, `loading`, `gone`, wants a `token`, or `fails`. */
export function watch(listener) {
  listen = listener;
  return ready();
}

/** What is served, as soon as the server is ready. */
export function ready() {
  if (info) return Promise.resolve(info);
  connecting ??= connect().finally(() => (connecting = undefined));
  return connecting;
}

/** The token that was entered in this tab, or null. */
export const stored = () => sessionStorage.getItem(TOKEN);

/** Use a token from now on. */
export function enter(token) {
  sessionStorage.setItem(TOKEN, token);
  entered();
}

/** Ask anew what is served: the server may offer more than before. */
export function refresh() {
  info = undefined;
}

/** The answer for a picture, with its most probable classes, and what is served. */
export async function predict(picture, count, options) {
  if (!picture.size) throw new Refused(REASONS["empty file"]);
  const { classes } = await ready();
  const answer = await ask(`predict?top=${count ?? classes.length}`, picture, options);
  if (!answer) return [];
  const served = await ready();
  if (answer.model === served.checksum) return [answer, served];
  info = undefined; // there is another classifier meanwhile, perhaps with other classes
  return predict(picture, count, options);
}

/**
 * The answer to a picture: an object, or of a PNG the response, whose body is read.
 *
 * A picture that finds the server busy or gone is sent again, unless the caller is impatient: then
 * the answer is undefined.
 */
export async function ask(path, picture, { isPatient = true } = {}) {
  for (let failures = 0; ; ) {
    await ready();
    const response = await sent(path, picture);
    if (response?.ok) return response.content;
    if (!response) {
      await requireReadable(picture);
      if (++failures === MOST_FAILURES) throw new Refused("The server ends the connection when it gets this picture.");
    } else if (response.status !== 401 && response.status !== 503) {
      throw new Refused(explained(response));
    }
    if (response?.status !== 503 || isPatient) info = undefined; // so it is asked how it is
    if (!isPatient) return undefined;
    if (response?.status === 503) await pause(1000 * (Number(response.headers.get("retry-after")) || 1));
  }
}

/** A response with its content, or undefined if none came, or not all of it. */
async function sent(path, picture) {
  try {
    const options = picture && { method: "POST", body: picture, headers: { "content-type": "application/octet-stream" } };
    const token = stored();
    const headers = { ...options?.headers, ...(token && { authorization: `Bearer ${token}` }) };
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    const isPicture = response.headers.get("content-type")?.startsWith("image/");
    const content = isPicture ? { blob: await response.blob(), headers: response.headers } : await response.json();
    return { ok: response.ok, status: response.status, headers: response.headers, content };
  } catch {
    return undefined;
  }
}

async function connect() {
  for (;;) {
    const response = await sent("info");
    if (response?.ok) {
      info = response.content;
      listen("ready", info);
      return info;
    }
    if (response?.status === 401) {
      const again = new Promise((resolve) => (entered = resolve));
      listen("token", stored() !== null);
      await again;
      continue;
    }
    if (!response) listen("gone");
    else if (response.status === 503) listen("loading");
    else listen("fails", explained(response));
    await pause(response?.status === 503 ? AGAIN / 4 : AGAIN);
  }
}

/** A file may be changed or deleted after it was chosen. */
async function requireReadable(picture) {
  await picture.slice(0, 1).arrayBuffer().catch(() => {
    throw new Refused("The file has changed or is gone since it was chosen. Choose it again.");
  });
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Why the server does not answer a picture, in plain words. */
function explained({ status, content }) {
  if (content.reason) return unusable(content.reason);
  if (status === 413) return `The file is too large for this server. ${content.error}`;
  if (status === 408) return "The picture took too long to reach the server.";
  return content.error ?? `The server answers ${status}.`;
}

const REASONS = {
  "empty file": "The file is empty.",
  "not an image": "This is not a picture.",
  truncated: "The file is cut off: a part of the picture is missing. Copy or download it again.",
  damaged: "The file is damaged. Copy or download it again.",
  "too large": "The picture has more pixels than this server takes. Make it smaller.",
};

function unusable(reason) {
  const [kind, ...more] = reason.split(": ");
  const rest = more.join(": ");
  if (kind === "not an image" && rest) return `This is not a picture, but ${rest}.`;
  if (kind === "unsupported format" && rest) return `Pictures of this kind cannot be read. ${capital(rest)}.`;
  return REASONS[kind.replace(/ \(.*/, "")] ?? `The picture cannot be used: ${reason}.`;
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);
