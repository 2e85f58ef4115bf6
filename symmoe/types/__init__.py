"""Every value that travels between stages: frozen, slotted, JSON-able through `to_json`."""

from __future__ import annotations

from symmoe.types.answers import Answer, Consensus, Origin, Outcome, Refusal, Reward, Trace, Verdict, Vote, Way, to_json
from symmoe.types.questions import AnswerKind, Message, Query, Question, Sampling, Scorer
from symmoe.types.skills import (
    Assignment,
    Belief,
    ExpertProfile,
    Explanation,
    Profiles,
    RecordedQuestion,
    Recruitment,
    Skill,
    SkillMatch,
    Skills,
    Standing,
    Tally,
)
from symmoe.types.work import Call, Candidate, Delta, Generation, Image, Lane, Load, Observation, Plan, Prompt, Step

__all__ = [
    "Answer",
    "AnswerKind",
    "Assignment",
    "Belief",
    "Call",
    "Candidate",
    "Consensus",
    "Delta",
    "ExpertProfile",
    "Explanation",
    "Generation",
    "Image",
    "Lane",
    "Load",
    "Message",
    "Observation",
    "Origin",
    "Outcome",
    "Plan",
    "Profiles",
    "Prompt",
    "Query",
    "Question",
    "RecordedQuestion",
    "Recruitment",
    "Refusal",
    "Reward",
    "Sampling",
    "Scorer",
    "Skill",
    "SkillMatch",
    "Skills",
    "Standing",
    "Step",
    "Tally",
    "Trace",
    "Verdict",
    "Vote",
    "Way",
    "to_json",
]
