"""`edgec.load(bundle)`: a compiled model, ready to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec import bundle as bundles
from edgec.bundle.manifest import Slot
from edgec.errors import RunError, UnsupportedError
from edgec.run.adapters import Adapters
from edgec.run.chat import Message, render_chat
from edgec.run.decoder import DecoderState, Logits
from edgec.run.engine import Engine
from edgec.run.generation import Generation
from edgec.run.golden import SelfTest, self_test
from edgec.run.graph import Arrays, Graph, open_graph
from edgec.run.sampler import Sampling
from edgec.run.search import Match, index_folder
from edgec.run.tasks import embedding, ocr, segmentation, similarity, text_classification, token_classification
from edgec.run.tasks.audio import read_audio
from edgec.run.tasks.classification import Classification, classifications
from edgec.run.tasks.detection import Detection, detections
from edgec.run.tasks.images import image_output
from edgec.run.tasks.ocr import TextLine
from edgec.run.tasks.segmentation import Segmentation
from edgec.run.tasks.speech_detection import SpeechSegment, detect_speech
from edgec.run.tasks.text_classification import Ranked, TextClassifier
from edgec.run.tasks.token_classification import Entity
from edgec.run.tasks.transcription import Transcription
from edgec.run.tokenizer import Tokenizer


def load(
    bundle: bundles.Bundle | Path | str,
    *,
    variant: str | None = None,
    threads: int | None = None,
    depth: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Model:
    """Load a bundle; every file that is used is checked against the manifest before.

    `variant` and `threads` choose the wasm module (by default the fastest that works here, on all
    CPUs); results are the same with each. `depth` takes 3 or 2 bits of the codes of a bundle that was compiled with
    `--nested`, in place of all 4. `progress` is called with the number of weight bytes
    loaded since the last call. Raises `BundleError` for a damaged bundle, `UsageError` for a depth that it lacks.
    """
    opened = bundle if isinstance(bundle, bundles.Bundle) else bundles.read(bundle)
    return Model(Engine(opened, variant=variant, threads=threads, depth=depth, progress=progress))


class Model:
    """One request at a time. Use it as a context manager, or call `close()`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.manifest = engine.manifest
        self.tokenizer = Tokenizer.of(engine.bundle)
        self._state = DecoderState(engine) if self.manifest.model.kind == "decoder" else None
        self._current: Generation | Transcription | None = None
        self._adapters = Adapters(engine)

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free everything. May be called twice."""
        self.engine.close()

    # language models

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        stop: str | Sequence[str] = (),
        hash_logits: bool = False,
        **sampling: Any,
    ) -> Generation:
        """Continue a text or a list of ids; iterate over the result for pieces of text.

        `sampling`: the fields of `Sampling` (temperature, top_k, top_p, min_p, repetition_penalty,
        seed, max_tokens); what is not given comes from the bundle. Raises `ContextFullError` when
        the prompt is too long, `RunError` when it is empty.
        """
        ids = self._require_tokenizer().encode(prompt) if isinstance(prompt, str) else [int(id) for id in prompt]
        return self._generate(ids, stop, hash_logits, sampling)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        stop: str | Sequence[str] = (),
        hash_logits: bool = False,
        **sampling: Any,
    ) -> Generation:
        """Answer a conversation of `{"role": ..., "content": ...}` in the model's own format."""
        return self._generate(self.chat_ids(messages, tools=tools), stop, hash_logits, sampling)

    def chat_ids(self, messages: Sequence[Message], *, tools: Sequence[Any] | None = None) -> list[int]:
        """The prompt's ids for a conversation."""
        info = self.manifest.tokenizer
        if info is None or info.chat_template is None:
            hint = "use `generate` with a plain prompt"
            raise UnsupportedError(f"`{self.manifest.model.name}` has no chat template", hint=hint)
        tokenizer = self._require_tokenizer()
        text = render_chat(
            info.chat_template,
            messages,
            special_tokens=info.special_tokens,
            control_tokens=tokenizer.control_tokens,
            tools=list(tools) if tools is not None else None,
        )
        return tokenizer.encode_rendered(text)

    def logits(self, ids: Sequence[int]) -> Iterator[Logits]:
        """The logits after each of `ids`, float32 [vocabulary] one at a time, from an empty cache."""
        state = self._require_decoder()
        self._take_over(None)
        return state.all_logits(ids)

    def reset(self) -> None:
        """Forget the conversation so far; the next prompt is computed from its beginning."""
        self._take_over(None)
        self._require_decoder().reset()

    # adapters

    def load_adapter(self, file: Path | str, *, name: str | None = None) -> str:
        """Read a file that `edgec adapter` wrote for this bundle's model, to be used under the name that it returns.

        Raises `BundleError` for a damaged file and for one of another model.
        """
        self._require_decoder()
        name = self._adapters.load(Path(file), name)
        if name == self._adapters.active:
            self.reset()
        return name

    def use_adapter(self, name: str | None) -> None:
        """Answer with the adapter of that name from now on, or with none. The conversation is computed again."""
        self._require_decoder()
        self._adapters.use(name)
        self.reset()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are loaded."""
        return self._adapters.names

    @property
    def adapter(self) -> str | None:
        """The name of the adapter in use."""
        return self._adapters.active

    def _generate(
        self, ids: Sequence[int], stop: str | Sequence[str], hash_logits: bool, options: dict[str, Any]
    ) -> Generation:
        generation = Generation(
            self._require_decoder(),
            ids,
            Sampling.from_options(self.manifest.generation, options),
            eos_token_ids=self.manifest.tokenizer.eos_token_ids if self.manifest.tokenizer else (),
            tokenizer=self.tokenizer,
            stop=[stop] if isinstance(stop, str) else list(stop),
            hash_logits=hash_logits,
        )
        self._take_over(generation)
        return generation

    def _take_over(self, generation: Generation | Transcription | None) -> None:
        if self._current is not None:
            self._current.superseded = True
        self._current = generation

    # graphs

    def run(self, inputs: Arrays, *, graph: str | None = None) -> dict[str, npt.NDArray[Any]]:
        """Run a graph: arrays by input name in, arrays by output name out. `graph` names one of several."""
        return self.graph(graph).run(inputs)

    def graph(self, name: str | None = None) -> Graph:
        """A graph of the model by its name, or its only one."""
        if self._state is not None:
            hint = "use `generate`, `chat` or `logits`"
            raise UnsupportedError(f"`{self.manifest.model.name}` is a language model", hint=hint)
        return open_graph(self.engine, name)

    def embed(self, texts: str | Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of texts, float32 [texts, width]."""
        task = self._require_task("embedding")
        return embedding.embed(self, self._require_tokenizer(), task, _listed(texts), pad_token_id=self._padding())

    def embed_text(self, texts: str | Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of texts in the space of `embed_image`, float32 [texts, width]."""
        task, graph = self._require_task(similarity.TASK), self.graph(similarity.TEXT_GRAPH)
        return similarity.embed_texts(
            graph, self._require_tokenizer(), task, _listed(texts), pad_token_id=self._padding()
        )

    def embed_image(self, images: Any) -> npt.NDArray[np.float32]:
        """Vectors of one picture or a list of them in the space of `embed_text`, float32 [images, width]."""
        task, graph = self._require_task(similarity.TASK), self.graph(similarity.IMAGE_GRAPH)
        return similarity.embed_images(graph, task, images if isinstance(images, (list, tuple)) else [images])

    def similarity(self, texts: str | Sequence[str], images: Any) -> npt.NDArray[np.float32]:
        """The model's logit for every text with every picture, float32 [texts, images]; larger fits better."""
        task = self._require_task(similarity.TASK)
        return similarity.compare(task, self.embed_text(texts), self.embed_image(images))

    def similarity_task(self) -> Mapping[str, Any]:
        """The task of a model of texts and images. Raises `UnsupportedError` for others."""
        return self._require_task(similarity.TASK)

    def search(
        self, folder: Path | str, text: str, *, top_k: int = 10, every: float = 1.0, cache: Path | None = None
    ) -> list[Match]:
        """The pictures below a folder that fit a text best, best first; of animations some frames are looked at.

        Of videos it is a frame `every` so many seconds; where `folder` is a video, its best moments are found. Vectors
        are kept in the file `cache`. `edgec.run.search.index_folder` also says what could not be read.
        """
        index = index_folder(self, folder, every=every, cache=cache)
        return index.search(self.embed_text(text), top_k=top_k, each_frame=Path(folder).is_file())

    def classify(self, what: Any, *, labels: Sequence[str] | None = None, top_k: int = 5) -> list[Classification]:
        """The best classes of a picture (a path, a Pillow image or uint8 [height, width, 3]), or of a text.

        A text may be a pair: what follows from what (premise, hypothesis), a question and an answer. A model of texts
        and images chooses among `labels`, which are any texts; other models know their own.
        """
        if labels is not None:
            task = self._require_task(similarity.TASK)
            return similarity.choose(task, labels, self.similarity(labels, [what]), top_k)
        if (self.manifest.task or {}).get("type") == text_classification.TASK:
            return self._text_classifier().classify(what, top_k)
        task = self._require_task("image-classification")
        output, _ = image_output(self, task["image"], what)
        return classifications(output, task, top_k)

    def rerank(self, query: str, documents: Sequence[str]) -> list[Ranked]:
        """Documents by how well they answer a query, the best first. Raises `UnsupportedError` for several classes."""
        return self._text_classifier().rerank(query, _listed(documents))

    def _text_classifier(self) -> TextClassifier:
        task = self._require_task(text_classification.TASK)
        return TextClassifier(self, self._require_tokenizer(), task, self._padding())

    def tokens(self, text: str) -> list[Entity]:
        """Names and other stretches of a text that the model marks; places count characters."""
        task = self._require_task(token_classification.TASK)
        return token_classification.entities(self, self._require_tokenizer(), task, text, pad_token_id=self._padding())

    def segment(self, image: Any) -> Segmentation:
        """What every pixel of a picture (a path, a Pillow image or uint8 [height, width, 3]) shows."""
        return segmentation.segment(self, self._require_task(segmentation.TASK), image)

    def detect(self, image: Any) -> list[Detection]:
        """The objects in a picture: a path, a Pillow image or uint8 [height, width, 3]."""
        task = self._require_task("object-detection")
        output, placement = image_output(self, task["image"], image)
        return detections(output, task, placement)

    def ocr(self, image: Any) -> list[TextLine]:
        """The lines of text in a picture (a path, a Pillow image or uint8 [height, width, 3]), in reading order."""
        task = self._require_task(ocr.TASK)
        return ocr.read_text(self.graph(ocr.DETECT_GRAPH), self.graph(ocr.RECOGNIZE_GRAPH), task, image)

    def transcribe(self, audio: Any, *, sample_rate: int | None = None) -> Transcription:
        """What is said in `audio`; iterate over the result for pieces of text as they come.

        `audio` is the path of a WAV file, its bytes, or floats from -1 to 1, [samples] or [samples, channels], with
        `sample_rate` samples a second (the model's own rate if that is not given).
        """
        task = self._require_task("transcription")
        if self.engine.closed:
            raise RunError("the model is closed")
        info = self.manifest.tokenizer
        samples = read_audio(audio, int(task["sample_rate"]), sample_rate)
        ends = info.eos_token_ids if info else ()
        transcription = Transcription(self.engine, self._require_tokenizer(), task, ends, samples)
        self._take_over(transcription)
        return transcription

    def detect_speech(self, audio: Any, *, sample_rate: int | None = None) -> list[SpeechSegment]:
        """The stretches of a sound in which somebody speaks; `audio` as for `transcribe`."""
        task = self._require_task("speech-detection")
        return detect_speech(self, task, read_audio(audio, int(task["sample_rate"]), sample_rate))

    @property
    def inputs(self) -> Sequence[Slot]:
        """The graph's inputs."""
        return self.manifest.inputs

    @property
    def dims(self) -> Mapping[str, int]:
        """Upper bounds of the symbolic dimensions."""
        return self.manifest.dims

    def _require_task(self, kind: str) -> Mapping[str, Any]:
        task = self.manifest.task or {}
        if task.get("type") != kind:
            raise UnsupportedError(
                f"`{self.manifest.model.name}` was not compiled for the task `{kind}`", hint="use `run`"
            )
        return task

    # facts

    def self_test(self) -> SelfTest:
        """Run the bundle's small fixed input, and say what differs from what the compiler computed.

        A conversation is forgotten. Raises `RunError` if the module's code stops.
        """
        if self.engine.closed:
            raise RunError("the model is closed")
        self._take_over(None)
        with self._adapters.suspended():
            return self_test(self.engine, self._state)

    def stats(self) -> dict[str, Any]:
        """Variant, threads, bits of nested codes in use, memory and load time of this model."""
        memory = self.manifest.memory
        return {
            "variant": self.engine.variant,
            "threads": self.engine.threads,
            "depth": self.engine.depth,
            "memory_bytes": self.engine.memory_bytes,
            "weight_bytes": memory.weights.bytes,
            "download_bytes": self.manifest.total_bytes(),
            "compile_seconds": self.engine.seconds_to_compile,
            "load_seconds": self.engine.seconds_to_load,
            "context_length": self.manifest.context_length,
            "cached_tokens": self._state.position if self._state else 0,
        }

    def _require_decoder(self) -> DecoderState:
        if self.engine.closed:
            raise RunError("the model is closed")
        if self._state is None:
            hint = "use `run`"
            raise UnsupportedError(f"`{self.manifest.model.name}` is not a language model", hint=hint)
        return self._state

    def _padding(self) -> int:
        """The id that fills up texts."""
        info = self.manifest.tokenizer
        return (info.pad_token_id if info else None) or 0

    def _require_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UnsupportedError(f"`{self.manifest.model.name}` has no tokenizer", hint="give token ids")
        return self.tokenizer


def _listed(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


__all__ = ["Model", "load"]
