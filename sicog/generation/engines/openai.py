"""The engine `openai`: a vision-language model behind an OpenAI-compatible endpoint answers our jobs.

Each sample is one request with its own seed and stored answer, so a restart pays for nothing twice. The answers of an
endpoint may depend on its version and load. Only stored answers are reproducible.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sicog.generation.sampling import Job, Picture, Request, Sample, SamplingConfig, Unanswered
from sicog.remote.client import BadImage, Message, NoAnswer, open_client
from sicog.remote.client import Request as ChatRequest
from sicog.remote.config import EndpointConfig
from sicog.seeds import stream_key

_QUALITY = 92


class ServedModel:
    """An engine for a model behind an endpoint. answers: the folder of stored answers."""

    def __init__(self, endpoint: EndpointConfig, sampling: SamplingConfig, answers: Path, *, max_side: int) -> None:
        self.sampling, self.max_side = sampling, max_side
        self._open = ExitStack()
        self._client = self._open.enter_context(open_client(endpoint, answers))

    def status(self) -> str:
        """Answers, rate and money."""
        return self._client.status()

    def close(self) -> None:
        """Close the connections and the store."""
        self._open.close()

    def check(self, job: Job) -> None:
        """Do nothing: the model's limits are not known here, and refused requests are unanswered rows."""

    def run(self, jobs: Sequence[Job]) -> list[list[Sample] | ValueError | Unanswered]:
        """The samples of every job, or the reason why it has none. Raises `ValueError` if no request is possible."""
        asked = [
            (place, request, index)
            for place, job in enumerate(jobs)
            for request in job.requests
            for index in range(request.n)
        ]
        found = self._client.run(self._answer(jobs[place], request, index) for place, request, index in asked)
        results: list[list[Sample] | ValueError | Unanswered] = [[] for _ in jobs]
        for (place, _, _), answer in zip(asked, found, strict=True):
            so_far = results[place]
            if not isinstance(so_far, list):
                continue
            if isinstance(answer, Sample):
                so_far.append(answer)
            else:
                results[place] = answer
        return results

    async def _answer(self, job: Job, request: Request, index: int) -> Sample | ValueError | Unanswered:
        seed = stream_key("served", self.sampling.seed, job.id, request.style, index) % 2**31
        chat = ChatRequest(
            (Message("user", (*(_Sent(image, self.max_side) for image in job.images), request.full_prompt)),),
            temperature=self.sampling.temperature,
            max_tokens=self.sampling.max_new_tokens,
            options=(("seed", seed), ("top_p", self.sampling.top_p)),
        )
        try:
            answer = await self._client.ask(chat)
        except BadImage as error:
            return ValueError(str(error))
        except NoAnswer as error:
            return Unanswered(error.reason, str(error))
        if answer.refusal or not answer.text.strip():
            reason = "refusal" if answer.refusal else "empty"
            return Unanswered(reason, f"style {request.style}, sample {index}: {answer.text[:200]!r}")
        cut = answer.finish_reason == "length"
        text = answer.text.strip()
        return Sample(request.style, request.prompt, index, text, "length" if cut else "stop", (), answer.output_tokens)


@dataclass(frozen=True)
class _Sent:
    """A job's picture in a request. It is read when it is sent, and scaled to at most `max_side` pixels."""

    picture: Picture
    max_side: int

    def identity(self) -> dict[str, object]:
        """The image's part of the request key: its pixels, after any corruption, and its size."""
        try:
            image = self._image()
        except ValueError as error:
            raise OSError(str(error)) from error  # the client treats it as an unreadable image
        return {"pixels": hashlib.sha256(image.tobytes()).hexdigest(), "size": image.size}

    def tokens(self, pixels_per_token: float) -> int:
        """The approximate number of tokens that an endpoint counts for it."""
        width, height = self._size()
        return math.ceil(width * height / pixels_per_token)

    def data_url(self) -> str:
        """The image as a `data:` URL of a JPEG. Raises `ValueError` if it cannot be read."""
        buffer = io.BytesIO()
        self._image().save(buffer, "JPEG", quality=_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    def _size(self) -> tuple[int, int]:
        width, height = self.picture.size
        factor = min(1.0, self.max_side / max(width, height))
        return max(1, round(width * factor)), max(1, round(height * factor))

    def _image(self) -> Image.Image:
        image = self.picture.read().convert("RGB")
        return image if image.size == self._size() else image.resize(self._size(), Image.Resampling.BICUBIC)
