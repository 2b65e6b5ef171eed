"""Rules for the manifest's `task`: what the runtimes do before and after the graph."""

from __future__ import annotations

from edgec.bundle.json_input import Node

MAX_SIDE = 8192
MAX_SAMPLE_RATE = 384_000
MAX_WINDOW_SECONDS = 3600


def check_task(node: Node) -> None:
    """Raises `BundleError` for a known `type` with wrong fields; unknown types are fine."""
    if node.is_null():
        return
    kind = node["type"].string()
    if kind == "embedding":
        node["pooling"].choice(["mean", "cls"])
        node["normalize"].boolean()
        node["max_length"].integer(1)
    elif kind == "image-classification":
        _check_image(node["image"])
        if not node["labels"].is_null():
            node["labels"].strings()
        node["scores"].choice(["logits", "probabilities"])
    elif kind in ("text-classification", "token-classification"):
        if not node["labels"].is_null():
            node["labels"].strings()
        if kind == "text-classification":
            node["scores"].choice(["softmax", "sigmoid", "logits"])
        node["max_length"].integer(1)
    elif kind == "semantic-segmentation":
        _check_image(node["image"])
        if node["image"]["fit"].string() == "crop":
            raise node["image"]["fit"].fail("is `crop`, but every pixel needs a class")
        if not node["labels"].is_null():
            node["labels"].strings()
    elif kind == "object-detection":
        _check_image(node["image"])
        node["labels"].strings()
        node["decoder"].choice(["yolox"])
        for stride in node["strides"].elements():
            stride.integer(1, MAX_SIDE)
        for name in ("score_threshold", "iou_threshold"):
            if not 0 <= node[name].number() <= 1:
                raise node[name].fail("is outside 0 to 1")
    elif kind == "text-image-similarity":
        node["text"]["max_length"].integer(1)
        _check_image(node["image"])
        for name in ("scale", "bias"):
            node[name].number()
        node["scores"].choice(["softmax", "sigmoid"])
        node["normalize"].boolean()
    elif kind == "ocr":
        _check_ocr(node)
    elif kind == "transcription":
        _check_transcription(node)
    elif kind == "speech-detection":
        _check_speech_detection(node)


def _check_ocr(node: Node) -> None:
    detect, recognize = node["detect"], node["recognize"]
    for part in (detect, recognize):
        _check_colors(part)
    detect["longest"].integer(1, MAX_SIDE)
    recognize["height"].integer(1, MAX_SIDE)
    recognize["least_width"].integer(1, MAX_SIDE)
    recognize["characters"].strings()
    fractions = (detect["threshold"], detect["box_threshold"], node["min_score"])
    for fraction in fractions:
        if not 0 <= fraction.number() <= 1:
            raise fraction.fail("is outside 0 to 1")
    for name in ("unclip", "shortest"):
        if not 0 <= detect[name].number() <= MAX_SIDE:
            raise detect[name].fail(f"is outside 0 to {MAX_SIDE}")


def _check_transcription(node: Node) -> None:
    node["sample_rate"].integer(1, MAX_SAMPLE_RATE)
    window, shortest = node["window_seconds"].number(), node["min_seconds"].number()
    if not 0 < window <= MAX_WINDOW_SECONDS:
        raise node["window_seconds"].fail(f"is outside 0 to {MAX_WINDOW_SECONDS}")
    if not 0 <= shortest <= window:
        raise node["min_seconds"].fail("is outside 0 to `window_seconds`")
    longest = node["max_tokens"].integer(1)
    if node["max_tokens_per_second"].number() <= 0:
        raise node["max_tokens_per_second"].fail("is not above 0")
    start = [element.integer(0) for element in node["start_ids"].elements()]
    if not 0 < len(start) < longest:
        raise node["start_ids"].fail("has no id, or as many as `max_tokens`")
    for name in ("suppress_ids", "begin_suppress_ids"):
        for element in node[name].elements():
            element.integer(0)


def _check_speech_detection(node: Node) -> None:
    node["sample_rate"].integer(1, MAX_SAMPLE_RATE)
    node["window"].integer(1, MAX_SAMPLE_RATE)
    node["context"].integer(0, MAX_SAMPLE_RATE)
    if not 0 <= node["neg_threshold"].number() <= node["threshold"].number() <= 1:
        raise node.fail("has thresholds that are not 0 <= `neg_threshold` <= `threshold` <= 1")
    for name in ("min_speech_ms", "min_silence_ms", "speech_pad_ms"):
        if node[name].number() < 0:
            raise node[name].fail("is negative")


def _check_image(node: Node) -> None:
    node["width"].integer(1, MAX_SIDE)
    node["height"].integer(1, MAX_SIDE)
    node["layout"].choice(["NCHW", "NHWC"])
    node["interpolation"].choice(["bicubic", "bilinear"])
    fit = node["fit"].choice(["crop", "letterbox", "stretch"])
    crop, pad = node.get("crop"), node.get("pad")
    if fit == "crop" and crop is None:
        raise node.fail("lacks `crop`")
    if crop is not None and not 0 < crop.number() <= 1:
        raise crop.fail("is outside 0 to 1")
    if fit == "letterbox" and pad is None:
        raise node.fail("lacks `pad`")
    if pad is not None:
        pad.integer(0, 255)
    _check_colors(node)


def _check_colors(node: Node) -> None:
    node["channels"].choice(["RGB", "BGR"])
    for name in ("mean", "std"):
        numbers = [element.number() for element in node[name].elements()]
        if len(numbers) != 3:
            raise node[name].fail("is not three numbers")
        if name == "std" and 0 in numbers:
            raise node[name].fail("has a zero")
