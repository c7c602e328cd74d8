// npm install @mediapipe/tasks-vision, and serve its folder "wasm" and model.tflite beside this file.
import { FilesetResolver, ImageClassifier } from "@mediapipe/tasks-vision";

const classifier = await ImageClassifier.createFromOptions(
  await FilesetResolver.forVisionTasks("wasm"),
  { baseOptions: { modelAssetPath: "model.tflite" }, maxResults: 1 },
);

/** The class of an image, canvas or video and its probability; undefined if unsure. */
export function classify(image) {
  const [found] = classifier.classify($framed).classifications[0].categories;
  return found && [found.categoryName, found.score];
}
$helper
