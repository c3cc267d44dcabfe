"""`sicog ask`: one image, one question, several samples; print the answer, its steps and the agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sicog.answers import final_answer
from sicog.chains import ChainError, parse
from sicog.console import stdout_console, styled_text
from sicog.generation.engines.engine import load_sampler
from sicog.generation.sampling import Job, Picture, Request, Sample, SamplingConfig
from sicog.records import Query
from sicog.tasks import TASKS, TaskSpec

ANSWER, DESCRIPTION = "direct", "dd"  # the default styles


@dataclass(frozen=True)
class Answer:
    """The result of `ask`.

    text: the answer of the chosen sample, None if no sample could be parsed. steps: (heading, body) of its chain, or
    empty.
    agreement: the share of samples with the same normalised answer, None without an answer and for captions.
    answers: the answer of each sample, None if it is cut off or not in the style's steps. samples: the whole texts.
    """

    text: str | None
    steps: tuple[tuple[str, str], ...]
    agreement: float | None
    answers: tuple[str | None, ...]
    samples: tuple[str, ...]


def ask(
    checkpoint: Path,
    image: Path,
    question: str = "",
    *,
    style: str | None = None,
    samples: int = 5,
    temperature: float = 0.7,
    top_p: float = 0.9,
    max_new_tokens: int = 1200,
    seed: int = 0,
    slicing: bool = True,
    console: Console | None = None,
) -> Answer:
    """Ask, print and return the answer.

    style: None asks for the plain answer to a question, or for a description without a question. Every model can do
    that, also without a warm-up on chains.
    Raises `ValueError` for an unknown style, a broken image or no question.
    """
    from sicog.model.image_processing import load_image

    style = style or (ANSWER if question else DESCRIPTION)
    task = task_of(style)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    query = Query.model_validate({"id": "ask", "task": task.name, "images": (str(image),), "question": question})
    prompt = task.prompt(query, style)
    picture = Picture.of(load_image(image))
    sampling = SamplingConfig(
        temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed, batch_size=min(samples, 64)
    )
    sampler = load_sampler(checkpoint, sampling, slicing=slicing)
    (drawn,) = sampler.run([Job("ask", [picture], [Request(style, prompt, samples)])])
    if isinstance(drawn, ValueError):
        raise drawn
    answer = choose_answer(drawn, task, style, question)
    show(answer, prompt, console or stdout_console())
    return answer


def task_of(style: str) -> TaskSpec:
    """The task with this style. Raises `ValueError` with all known styles."""
    for task in TASKS.values():
        if style in task.styles:
            return task
    raise ValueError(f"unknown style {style!r}; known: {', '.join(s for t in TASKS.values() for s in t.styles)}")


def choose_answer(samples: Sequence[Sample], task: TaskSpec, style: str, question: str = "") -> Answer:
    """The majority answer, from its first sample; for captions the first sample that can be parsed."""
    answers = [_answer(sample, task, style) for sample in samples]
    usable = [i for i, answer in enumerate(answers) if answer is not None]
    if not usable:
        return Answer(None, (), None, tuple(answers), tuple(sample.text for sample in samples))
    best, agreement = usable[0], None
    if task.votes:
        votes = Counter(final_answer(answers[i] or "", question) for i in usable)
        winner, n = votes.most_common(1)[0]  # among equally frequent answers the first one
        best = next(i for i in usable if final_answer(answers[i] or "", question) == winner)
        agreement = n / len(samples)
    chain = task.style(style).chain
    steps: tuple[tuple[str, str], ...] = ()
    if chain:
        steps = tuple(zip(chain.headings, parse(chain, samples[best].text), strict=True))
    return Answer(
        text=answers[best],
        steps=steps,
        agreement=agreement,
        answers=tuple(answers),
        samples=tuple(sample.text for sample in samples),
    )


def show(answer: Answer, prompt: str, console: Console) -> None:
    """Print an answer for people."""

    n, n_read = len(answer.samples), sum(text is not None for text in answer.answers)
    console.print(prompt, style="dim")
    if answer.text is None:
        why = " (cut off, or not in the steps of the style)"
        console.print(styled_text((f"no answer: {n_read} of {n} samples could be read", "bold"), why))
        console.print(styled_text(("the text of the first, as it is:", "dim"), f"\n{answer.samples[0]}"))
        return
    for number, (heading, body) in enumerate(answer.steps[:-1], 1):
        console.print(styled_text((f"Step {number}: {heading}", "dim"), f"\n{body}"))
    if answer.steps:  # the last step is the answer
        console.print(f"Step {len(answer.steps)}: {answer.steps[-1][0]}", style="dim")
    console.print(styled_text("answer: ", (answer.text, "bold")))
    read = f"{n_read} of {n} samples could be read"
    if answer.agreement is not None:
        console.print(f"agreement: {round(answer.agreement * n)} of {n} samples give this answer; {read}")
    elif n > 1:
        console.print(
            f"agreement is not computed for captions (an encoder would be needed); {read}, this is the first of them"
        )


def _answer(sample: Sample, task: TaskSpec, style: str) -> str | None:
    if sample.finish_reason == "length":
        return None
    try:
        return task.compared(sample.text, style)
    except ChainError:
        return None
