// The camera: the newest picture is answered, again and again, while somebody looks.

import { add } from "./history.js";
import { bars, element, made, sentence, verdict } from "./parts.js";
import { predict, ready } from "./server.js";

const PACE = 200; // milliseconds between pictures, at least
const LONGEST = 1024; // side of a picture that is sent, in pixels
const SHOWN = 5; // classes
const BUSY = 10; // pictures that were refused one after the other until that is said
const REFUSED = {
  NotAllowedError: "The camera may not be used: allow it for this page in the browser's settings.",
  NotFoundError: "There is no camera.",
  NotReadableError: "The camera is in use by another program.",
};

let stream; // while the camera runs
let kept = 0;
let tell; // of a problem

export function prepareCamera(onProblem) {
  tell = onProblem;
  element("camera").addEventListener("click", start);
  element("stop").addEventListener("click", stop);
  element("keep").addEventListener("click", keep);
  addEventListener("pagehide", () => stream && stop());
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden || !stream) return;
    stop();
    tell("The camera was stopped, as this page was not seen any more.");
  });
}

async function start() {
  if (stream) return;
  tell("");
  if (!navigator.mediaDevices) {
    tell("Browsers give the camera only to pages that come by https, or from localhost.");
    return;
  }
  element("camera").disabled = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    element("live").hidden = false;
    document.body.classList.add("used");
    element("video").srcObject = stream;
    stream.getVideoTracks()[0].addEventListener("ended", stop);
    await element("video").play();
    element("live").scrollIntoView({ block: "nearest" });
    element("stop").focus({ preventScroll: true });
    look(stream);
  } catch (error) {
    stop();
    tell(REFUSED[error.name] ?? `The camera cannot be used: ${sentence(error.message)}`);
  }
}

function stop() {
  if (element("results").hidden) document.body.classList.remove("used");
  stream?.getTracks().forEach((track) => track.stop());
  stream = undefined;
  element("video").srcObject = null;
  element("live").hidden = true;
  element("seen").replaceChildren();
  element("camera").disabled = false;
  element("camera").focus();
}

/** Ask about the newest picture, when the one before is answered; one that is refused is left out. */
async function look(mine) {
  let refused = 0;
  try {
    while (stream === mine) {
      const [picture] = await Promise.all([taken(), new Promise((resolve) => setTimeout(resolve, PACE))]);
      const { fit } = await ready();
      if (stream !== mine) return;
      const [answer] = await predict(picture, SHOWN, { isPatient: false });
      if (stream !== mine) return;
      refused = answer ? 0 : refused + 1;
      mark(fit);
      if (answer) element("seen").replaceChildren(...verdict(answer), ...bars(answer.top));
      if (refused === BUSY) element("seen").replaceChildren(made("p", "quiet", "The server is busy. Trying again …"));
    }
  } catch (error) {
    if (stream !== mine) return;
    stop();
    tell(`The camera was stopped. ${sentence(error.message)}`);
  }
}

/** What the camera sees, as JPEG. */
async function taken() {
  const video = element("video");
  const canvas = document.createElement("canvas");
  const scale = Math.min(1, LONGEST / Math.max(video.videoWidth, video.videoHeight));
  canvas.width = Math.round(scale * video.videoWidth);
  canvas.height = Math.round(scale * video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}

async function keep() {
  add([{ file: await taken(), name: `camera ${++kept}.jpg` }]);
}

/** Mark the square of the camera's picture that is looked at. */
function mark(fit) {
  const { videoWidth: width, videoHeight: height } = element("video");
  const { style } = element("frame");
  const side = fit === "crop" ? Math.min(width, height) : 0;
  element("frame").hidden = !side;
  style.width = `${(100 * side) / width}%`;
  style.height = `${(100 * side) / height}%`;
}
