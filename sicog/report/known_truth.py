"""Ground truth of the unlabelled images, if there is one (mini world), to measure candidates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sicog.records import Query
from sicog.report.run_facts import read_lines

if TYPE_CHECKING:
    from sicog.mini.truth import QuestionTruth, SceneTruth


@dataclass(frozen=True)
class Truth:
    """Scenes and questions by id; a question's id is that of its query, an image's too."""

    path: Path
    scenes: dict[str, SceneTruth]
    questions: dict[str, QuestionTruth]

    @classmethod
    def read(cls, path: Path) -> Truth:
        """Read the truth of one split. Raises `ValueError` for an invalid line."""
        from sicog.mini.truth import SceneTruth

        scenes: dict[str, SceneTruth] = {}
        for number, line in enumerate(read_lines(path), 1):
            try:
                scene = SceneTruth.from_json(line)
            except (KeyError, TypeError) as error:
                raise ValueError(
                    f"truth: {path}:{number} is not the truth of an image ({error!r}). Give the mini world's truth file"
                ) from error
            scenes[scene.scene.id] = scene
        return cls(path, scenes, {q.id: q for scene in scenes.values() for q in scene.questions})

    def of(self, query: Query, compared: str) -> float:
        """Return F1 of a caption's objects in [0, 1]; for a short answer 1 if it is right, else 0."""
        from sicog.mini.truth import answer_is_right, caption_scores

        if query.task == "captioning":
            return caption_scores(compared, self._scene(query.id).scene).f1
        return float(answer_is_right(compared, self._question(query.id).answer, query.question))

    def words(self, query: Query) -> str:
        """Return the truth in words: the answer of a question, the things of an image."""
        if query.task == "reasoning":
            return self._question(query.id).answer
        scene = self._scene(query.id).scene
        return ", ".join(f"{' '.join(thing.attributes)} ({scene.region(thing)})" for thing in scene.things)

    def _scene(self, query_id: str) -> SceneTruth:
        if query_id not in self.scenes:
            raise ValueError(f"truth: image {query_id!r} is missing in {self.path}. Give the truth of the right split")
        return self.scenes[query_id]

    def _question(self, query_id: str) -> QuestionTruth:
        if query_id not in self.questions:
            raise ValueError(
                f"truth: question {query_id!r} is missing in {self.path}. Give the truth of the right split"
            )
        return self.questions[query_id]
