"""What models are calibrated, judged and trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgec.errors import UsageError
from edgec.pipeline.work import Work

if TYPE_CHECKING:
    from edgec.compress import PictureViews, Sample
    from edgec.ir import ModelIR


def texts_of_its_own(work: Work) -> list[str] | None:
    """What the whole model writes where the user gives nothing, once; None for models that cannot."""
    model = work.whole or work.model
    assert model is not None
    if work.options.calibration is not None or model.decoder is None or model.tokenizer is None:
        return None
    if work.texts is None:
        from edgec.slim import own_texts

        key = work.key(model)
        work.texts = own_texts(model, store=work.cache, source_key=key, progress=work.advance("slim"))
    return work.texts


def calibration_samples(work: Work, model: ModelIR) -> list[Sample] | None:
    """Calibration data: the user's, else text that the model writes, else none. Made once.

    Where an accuracy is asked for, or was when the plan was made, some of it is left out.
    """
    from edgec.compress import generated_samples, held_out, read_samples, whole_samples

    if work.samples is None:
        if work.options.calibration is not None:
            work.samples = read_samples(model, work.options.calibration)
        elif work.whole is not None and (texts := texts_of_its_own(work)) is not None:
            work.samples = whole_samples(model, texts)  # what is left of the model would write worse
        elif model.kind == "decoder":
            work.samples = generated_samples(model, store=work.cache, source_key=work.key(model))
        options = work.options
        judges = options.min_accuracy is not None or (options.plan is not None and options.plan.accuracy is not None)
        if work.samples is not None and judges:
            work.samples, work.judged = held_out(work.samples)
    return work.samples


def more_samples(work: Work, model: ModelIR) -> PictureViews | None:
    """Views of the user's pictures, to calibrate a classifier on as well; None for others.

    Pictures that an accuracy is judged by would be among them, so there are none then.
    """
    return training_views(work, model) if work.judged is None else None


def training_texts(work: Work, model: ModelIR) -> list[str] | None:
    """What a model that reads text is trained on; None for one that is given arrays."""
    from edgec.compress import is_archive
    from edgec.slim import TRAINING_TOKENS, own_texts, parted, read_texts

    calibration = work.options.calibration
    if model.tokenizer is None or (calibration is not None and is_archive(calibration)):
        return None
    if calibration is not None:
        return parted(read_texts(model, calibration), model)[0]
    if model.decoder is None:
        return None
    key = work.key(model)
    texts = own_texts(model, tokens=TRAINING_TOKENS, store=work.cache, source_key=key, progress=work.advance("heal"))
    return parted(texts, model)[0]


def training_views(work: Work, model: ModelIR) -> PictureViews | None:
    """What a classifier that is given a folder of pictures is trained on; None for other models and other data."""
    from edgec.compress import PictureViews, classifies

    calibration = work.options.calibration
    if work.whole is not None or calibration is None or not calibration.is_dir() or not classifies(model):
        return None
    return PictureViews(model, calibration)


def training_samples(work: Work, model: ModelIR) -> list[Sample]:
    samples = calibration_samples(work, model)
    if samples is None:
        raise UsageError(
            f"healing needs data, and `{model.facts.name}` cannot make its own",
            hint="give a text, a folder of pictures or an .npz file with `--calibration`",
        )
    return samples


__all__ = [
    "calibration_samples",
    "more_samples",
    "texts_of_its_own",
    "training_samples",
    "training_texts",
    "training_views",
]
