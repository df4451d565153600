"""The one door for programs: a Job goes in, a clip and a Report come out.

with Engine.open("builtin") as engine:
    result = engine.run(Job.animate(character="hero.png", driver="dance.mp4"))
    result.save("out.mp4")
"""

from pasdedeux.engine.description import DescribedExpert, Description, describe
from pasdedeux.engine.duet import DuetModel, defaults_of, open_duet
from pasdedeux.engine.engine import Engine, check_video_name
from pasdedeux.engine.events import Event, Found, Loading, Noted, Prepared, Watched
from pasdedeux.engine.job import GENERATE, MODES, Job, Result, parse_size, puppet_seed
from pasdedeux.engine.memory import Memory
from pasdedeux.engine.model import BUILTIN, Model, checked_device, count, model_folder
from pasdedeux.engine.opening import open_model
from pasdedeux.engine.parts import Parts
from pasdedeux.engine.preparation import Preparation
from pasdedeux.engine.previews import Preview
from pasdedeux.engine.report import MemoryRecord, Report, StepRecord, source_commit, versions
from pasdedeux.engine.settings import Defaults, Settings, settle
from pasdedeux.engine.sources import Cast, cast, puppet_character

__all__ = [
    "BUILTIN",
    "GENERATE",
    "MODES",
    "Cast",
    "Defaults",
    "DescribedExpert",
    "Description",
    "DuetModel",
    "Engine",
    "Event",
    "Found",
    "Job",
    "Loading",
    "Memory",
    "MemoryRecord",
    "Model",
    "Noted",
    "Parts",
    "Preparation",
    "Prepared",
    "Preview",
    "Report",
    "Result",
    "Settings",
    "StepRecord",
    "Watched",
    "cast",
    "check_video_name",
    "checked_device",
    "count",
    "defaults_of",
    "describe",
    "model_folder",
    "open_duet",
    "open_model",
    "parse_size",
    "puppet_character",
    "puppet_seed",
    "settle",
    "source_commit",
    "versions",
]
