"""A new task: titles of images, asked for directly and in two steps, with votes like for short answers.

    python examples/new_task.py sample task=titles styles="[{style: title}, {style: reasoned, n: 2}]" checkpoint=... ...

The file is the command line with one more task. Score, select, build and train work on its rows without changes.
"""

from sicog.chains import Chain
from sicog.cli import main
from sicog.tasks import Style, TaskSpec, add_task

TWO_STEPS = Chain("two steps to a title", ("Say what the image is about.", "Conclude with a title."))
ASK = "Write a title of at most five words for this image."

TITLES = TaskSpec(
    name="titles",
    styles={
        "title": Style("title", ASK),
        # The answer's form is a chain: its last step is what self-consistency compares; a text without it is excluded.
        "reasoned": Style("reasoned", f"{ASK} Think about it step-by-step.", TWO_STEPS),
    },
    votes=True,  # answers are short: compared normalised, and counted
)
add_task(TITLES)

if __name__ == "__main__":
    main()
