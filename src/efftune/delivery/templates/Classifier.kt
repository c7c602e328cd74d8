// build.gradle: implementation("com.google.mediapipe:tasks-vision:0.10.29")
// Put model.tflite into app/src/main/assets/.
import android.content.Context
import android.graphics.Bitmap
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier

class Classifier(context: Context) {
    private val classifier = ImageClassifier.createFromOptions(
        context,
        ImageClassifier.ImageClassifierOptions.builder()
            .setBaseOptions(BaseOptions.builder().setModelAssetPath("model.tflite").build())
            .setMaxResults(1)
            .build(),
    )

    /** The class of an upright picture and its probability; null if the classifier is unsure. */
    fun classify(bitmap: Bitmap): Pair<String, Float>? =
        classifier.classify(BitmapImageBuilder($framed).build())
            .classificationResult().classifications().first().categories().firstOrNull()
            ?.let { it.categoryName() to it.score() }
$helper}
