"""sbatch, srun, squeue and scontrol for PATH: they run the real thing at once, one array task after another."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SBATCH = """#!{python}
import os, re, subprocess, sys, tempfile
from pathlib import Path
home = Path({home!r})
text = Path(sys.argv[-1]).read_text()
options = dict(re.findall(r"^#SBATCH --([\\w-]+)=(.*)$", text, re.M))
job = str(1 + len(list(home.glob("job-*"))))
needed = next((a.split(":")[1] for a in sys.argv if a.startswith("--dependency=afterok:")), None)
script = home / f"script-{{job}}.sh"
script.write_text(text)
codes = []
if needed is None or (home / f"job-{{needed}}").read_text() == "0":
    first, last = options["array"].split("%")[0].split("-")
    for task in range(int(first), int(last) + 1):
        env = {{**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": job, "SLURM_NODELIST": "node-1"}}
        with open(options["output"].replace("%A", job).replace("%a", str(task)), "w") as log:
            codes.append(subprocess.run(["bash", script], env=env, stdout=log, stderr=log).returncode)
(home / f"job-{{job}}").write_text(str(max(map(abs, codes), default=1)))
print("Submitted batch job", job)
"""
_SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do [[ "$1" == -n ]] && shift; shift; done
exec "$@"
"""
_SQUEUE = """#!/bin/bash
echo "slurm_load_jobs error: Invalid job id specified" >&2
exit 1
"""
_SCONTROL = '#!/bin/bash\n[ "$1 $2" = "show hostnames" ] && echo "$3"\n'


def install(folder: Path) -> str:
    """Write the stand-ins; returns the PATH that finds them. `job-N` holds the worst exit code of job N."""
    folder.mkdir()
    texts = {"sbatch": _SBATCH.format(python=sys.executable, home=str(folder)), "srun": _SRUN, "squeue": _SQUEUE}
    texts["scontrol"] = _SCONTROL
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
