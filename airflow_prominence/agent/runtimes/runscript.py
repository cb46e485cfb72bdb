"""How an image with scripts of its own is started, as Singularity does it: the same whatever command runs it."""

import re
from typing import Container, Dict, Iterable, List, Optional

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Shells end when one of these is assigned.
_READ_ONLY = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "GROUPS", "PPID", "SHELLOPTS", "UID"})
_SCRIPTS = 'for p_script in /.singularity.d/env/*.sh; do if [ -f "$p_script" ]; then . "$p_script"; fi; done'
_RUNSCRIPT = "/.singularity.d/runscript"


def script_of(argv: Optional[List[str]], app: Optional[str]) -> Optional[str]:
    """The script of the image that the task starts; None if it starts its own command."""
    if app is not None:
        return f"/scif/apps/{app}/scif/runscript"
    return _RUNSCRIPT if argv is None else None


def command(
    argv: Optional[List[str]], app: Optional[str], start: Iterable[str], final: Container[str], carried: str
) -> List[str]:
    """What to start in the container: `exec` of the task's command, else `run` of the image or of its app.

    Before it, as Singularity does, the image's own scripts set its environment. `start` names the variables that they
    find, `final` those of them that stay as they were. Where a runtime has let the scripts run already, the variables
    are also there with `carried` before their names, and what they were is put back first.
    """
    script = script_of(argv, app)
    inner = list(argv or []) if script is None else [script, *(argv or [])]
    names = [name for name in start if _NAME.fullmatch(name) and name not in _READ_ONLY]
    lines = [f'p_{index}="${carried}{name}"' for index, name in enumerate(names)]
    if carried:
        lines += ["unset LD_LIBRARY_PATH", *(f"unset {carried}{name}" for name in names)]
        lines += [f'export {name}="$p_{index}"' for index, name in enumerate(names)]
    lines.append(_SCRIPTS)
    lines += [f'export {name}="$p_{index}"' for index, name in enumerate(names) if name in final]
    return ["/bin/sh", "-c", "\n".join([*lines, 'exec "$@"']), "sh", *inner]


def app_environment(app: Optional[str]) -> Dict[str, str]:
    """What tells the image's scripts which of its apps is meant."""
    return {} if app is None else {"SINGULARITY_APPNAME": app, "APPTAINER_APPNAME": app}
