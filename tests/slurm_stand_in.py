"""sbatch, srun, squeue and scontrol for PATH: they run the real thing at once, one array task after another.

While a file `hold` lies beside them, jobs are only taken note of, and are there, waiting, until it is gone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SBATCH = """#!{python}
import os, re, subprocess, sys
from pathlib import Path
home = Path({home!r})
text = Path(sys.argv[-1]).read_text()
options = dict(re.findall(r"^#SBATCH --([\\w-]+)=(.*)$", text, re.M))
job = str(1 + len(list(home.glob("job-*"))))
given = next((a for a in sys.argv if a.startswith("--dependency=")), "")
needed = [n for ids in re.findall(r"afterok:([\\d:]+)", given) for n in ids.split(":")]
(home / f"job-{{job}}").write_text("running")  # the number is taken: a job may itself submit others
script = home / f"script-{{job}}.sh"
script.write_text(text)
(home / f"asked-{{job}}").write_text(" ".join(sys.argv[1:-1]))
held, codes = (home / "hold").exists(), []
if not held and all((home / f"job-{{n}}").read_text() == "0" for n in needed):
    first, last = options["array"].split("%")[0].split("-") if "array" in options else (0, 0)
    for task in range(int(first), int(last) + 1):
        env = {{**os.environ, "SLURM_JOB_ID": str(os.getpid())}}
        env |= {{"SLURM_ARRAY_TASK_ID": str(task)}} if "array" in options else {{}}
        env |= {{"SLURM_NODELIST": "localhost", "SLURM_JOB_NODELIST": "localhost"}}
        env |= {{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}}
        with open(options["output"].replace("%A", job).replace("%a", str(task)), "w") as log:
            codes.append(subprocess.run(["bash", script], env=env, stdout=log, stderr=log).returncode)
(home / f"job-{{job}}").write_text("held" if held else str(max(map(abs, codes), default=1)))
print("Submitted batch job", job)
"""
_SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do [[ "$1" == -n ]] && shift; shift; done
exec "$@"
"""
_SQUEUE = """#!/bin/bash
job="${{*: -1}}"
[ -e {home}/hold ] && [ "$(cat "{home}/job-${{job#--jobs=}}" 2>/dev/null)" = held ] && echo PENDING && exit 0
echo "slurm_load_jobs error: Invalid job id specified" >&2
exit 1
"""
_SCONTROL = '#!/bin/bash\n[ "$1 $2" = "show hostnames" ] && echo "$3"\n'


def install(folder: Path) -> str:
    """Write the stand-ins; returns the PATH that finds them. `job-N` holds the worst exit code of job N."""
    folder.mkdir()
    texts = {
        "sbatch": _SBATCH.format(python=sys.executable, home=str(folder)),
        "squeue": _SQUEUE.format(home=str(folder)),
        "srun": _SRUN,
        "scontrol": _SCONTROL,
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
