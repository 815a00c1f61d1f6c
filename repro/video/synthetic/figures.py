"""Articulated figures in several body plans, and how each performs each action.

A figure is a set of bones in body units (1 is the torso's length), posed by an action's phase. Angles are in
radians, x points forward, y up. Everything is a pure function of (species, action, time).
"""

import math
from dataclasses import dataclass

TAU = 2 * math.pi

ACTIONS = ("walk", "jump", "eat", "shake")
TRAIN_SPECIES = ("biped", "quadruped", "hexapod")
TEST_SPECIES = ("bird", "lizard")
SPECIES = TRAIN_SPECIES + TEST_SPECIES


@dataclass(frozen=True, slots=True)
class Limb:
    at: float
    """Where it joins the torso: 0 at the tail end, 1 at the head end."""
    lengths: tuple[float, float]
    rest: float
    """Angle of the upper bone at rest; straight down is -pi/2."""
    bend: float
    """Angle of the lower bone against the upper at rest."""
    phase: float
    """Fraction of a cycle by which it leads; limbs that step in turn differ by 0.5."""
    width: float
    walks: bool = True


@dataclass(frozen=True, slots=True)
class BodyPlan:
    pitch: float
    """Torso's angle at rest: 0 level, pi/2 upright."""
    torso_width: float
    limbs: tuple[Limb, ...]
    neck: float
    """Length; the head sits at its end."""
    neck_rest: float
    """Angle against the torso."""
    head: float
    tail: float
    scale: float
    """Torso's length as a share of the picture's height."""


@dataclass(frozen=True, slots=True)
class Bone:
    start: tuple[float, float]
    end: tuple[float, float]
    width: float
    shade: int
    """0 torso, 1 near limb, 2 far limb, 3 head."""


DOWN = -TAU / 4


def _leg(at: float, length: float, phase: float, width: float = 0.11, rest: float = DOWN, bend: float = -0.35) -> Limb:
    return Limb(at, (0.55 * length, 0.5 * length), rest, bend, phase, width)


PLANS = {
    "biped": BodyPlan(
        pitch=TAU / 4 - 0.05,
        torso_width=0.24,
        limbs=(
            _leg(0.0, 1.15, 0.0, 0.14),
            _leg(0.0, 1.15, 0.5, 0.14),
            Limb(0.92, (0.42, 0.4), DOWN, 0.4, 0.5, 0.1, walks=False),
            Limb(0.92, (0.42, 0.4), DOWN, 0.4, 0.0, 0.1, walks=False),
        ),
        neck=0.3,
        neck_rest=0.05,
        head=0.2,
        tail=0.0,
        scale=0.27,
    ),
    "quadruped": BodyPlan(
        pitch=0.05,
        torso_width=0.3,
        limbs=(_leg(0.05, 0.75, 0.0), _leg(0.08, 0.75, 0.5), _leg(0.92, 0.75, 0.5), _leg(0.95, 0.75, 0.0)),
        neck=0.45,
        neck_rest=0.7,
        head=0.17,
        tail=0.45,
        scale=0.34,
    ),
    "hexapod": BodyPlan(
        pitch=0.0,
        torso_width=0.26,
        limbs=tuple(
            Limb(at, (0.36, 0.42), rest, -1.2, phase, 0.06)
            for at, rest, phase in (
                (0.2, -2.3, 0.0),
                (0.25, -2.2, 0.5),
                (0.5, -1.5, 0.5),
                (0.55, -1.4, 0.0),
                (0.8, -0.8, 0.0),
                (0.85, -0.7, 0.5),
            )
        ),
        neck=0.22,
        neck_rest=0.1,
        head=0.16,
        tail=0.0,
        scale=0.38,
    ),
    "bird": BodyPlan(
        pitch=0.55,
        torso_width=0.42,
        limbs=(
            _leg(0.35, 0.7, 0.0, 0.06, bend=0.5),
            _leg(0.38, 0.7, 0.5, 0.06, bend=0.5),
            Limb(0.7, (0.5, 0.45), math.pi + 0.4, 0.2, 0.0, 0.16, walks=False),
        ),
        neck=0.4,
        neck_rest=0.6,
        head=0.15,
        tail=0.4,
        scale=0.3,
    ),
    "lizard": BodyPlan(
        pitch=0.08,
        torso_width=0.2,
        limbs=(
            _leg(0.1, 0.42, 0.0, 0.09, rest=-2.0),
            _leg(0.15, 0.42, 0.5, 0.09, rest=-1.9),
            _leg(0.85, 0.42, 0.5, 0.09, rest=-1.2),
            _leg(0.9, 0.42, 0.0, 0.09, rest=-1.1),
        ),
        neck=0.2,
        neck_rest=0.15,
        head=0.13,
        tail=0.9,
        scale=0.36,
    ),
}


@dataclass(frozen=True, slots=True)
class _Motion:
    """Displacement of a body by its action at one moment."""

    lift: float = 0.0
    forward: float = 0.0
    pitch: float = 0.0
    swing: float = 0.0
    """Amplitude of the walking limbs' stride."""
    crouch: float = 0.0
    free: float = 0.0
    """Turn of the limbs that do not walk."""
    neck: float = 0.0
    tail: float = 0.0


def _motion(action: str, cycle: float) -> _Motion:
    """Return the displacement after `cycle` repetitions of the action, which may be fractional."""
    wave = math.sin(TAU * cycle)
    if action == "walk":
        return _Motion(lift=0.03 * abs(wave), forward=0.55 * cycle, swing=0.55, free=0.4 * wave, neck=0.06 * wave)
    if action == "jump":
        flight = max(0.0, wave)
        return _Motion(lift=0.8 * flight, crouch=0.55 * max(0.0, -wave), free=1.8 * flight, pitch=0.12 * flight)
    if action == "eat":
        down = 0.5 - 0.5 * math.cos(TAU * cycle)
        return _Motion(pitch=-0.3 * down, neck=-1.3 * down, crouch=0.12 * down, free=0.25 * down)
    if action == "shake":
        fast = math.sin(3 * TAU * cycle)
        return _Motion(pitch=0.13 * fast, forward=0.05 * fast, neck=0.3 * fast, free=0.5 * fast, tail=0.7 * fast)
    raise ValueError(f"no action {action!r}; there are {', '.join(ACTIONS)}")


def pose(species: str, action: str, cycle: float) -> list[Bone]:
    """Return a figure's bones back to front, in body units; standing feet are near y = 0.

    Args:
        species: Key of PLANS.
        action: One of ACTIONS.
        cycle: Repetitions of the action so far.
    """
    plan, motion = PLANS[species], _motion(action, cycle)
    pitch = plan.pitch + motion.pitch
    # Height of the hip at which the lowest walking limb, at rest, just reaches the ground.
    standing = max(
        -_reach(limb, 0.0, 0.0, 0.0)[1][1] - _along(plan.pitch, limb.at)[1] for limb in plan.limbs if limb.walks
    )
    hip = (motion.forward - 0.5 * math.cos(plan.pitch), standing * (1 - 0.35 * motion.crouch) + motion.lift)

    far: list[Bone] = []
    near: list[Bone] = []
    for number, limb in enumerate(plan.limbs):
        joint = _add(hip, _along(pitch, limb.at))
        if limb.walks:
            stride = motion.swing * math.sin(TAU * (cycle + limb.phase))
            # The knee bends only while the limb swings forward (the cosine is the stride's speed), which lifts the foot.
            knee = -motion.swing * 0.8 * max(0.0, math.cos(TAU * (cycle + limb.phase)))
            upper, lower = _reach(limb, stride + motion.crouch, knee - 1.6 * motion.crouch, 0.0)
        else:
            # Arms and wings: a pair moves in opposite directions, which the phase decides.
            upper, lower = _reach(limb, motion.free * (1.0 if limb.phase < 0.25 else -1.0), 0.0, motion.pitch)
        # Limbs alternate between near and far; the far ones are painted first and darker.
        bones = (far, 2) if number % 2 else (near, 1)
        bones[0].append(Bone(joint, _add(joint, upper), limb.width, bones[1]))
        bones[0].append(Bone(_add(joint, upper), _add(joint, lower), 0.8 * limb.width, bones[1]))

    shoulder = _add(hip, _along(pitch, 1.0))
    neck_angle = pitch + plan.neck_rest + motion.neck
    skull = _add(shoulder, _polar(neck_angle, plan.neck))
    body = [Bone(hip, shoulder, plan.torso_width, 0), Bone(shoulder, skull, 0.45 * plan.torso_width, 0)]
    if plan.tail:
        body.append(Bone(hip, _add(hip, _polar(pitch + math.pi - 0.3 + motion.tail, plan.tail)), 0.08, 0))
    body.append(Bone(skull, _add(skull, _polar(neck_angle - 0.9, 0.8 * plan.head)), 2 * plan.head, 3))
    return far + body + near


def _reach(limb: Limb, turn: float, knee: float, tilt: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ends of the upper and the lower bone, relative to the joint."""
    angle = limb.rest + turn + tilt
    upper = _polar(angle, limb.lengths[0])
    return upper, _add(upper, _polar(angle + limb.bend + knee, limb.lengths[1]))


def _along(pitch: float, share: float) -> tuple[float, float]:
    return _polar(pitch, share)


def _polar(angle: float, length: float) -> tuple[float, float]:
    return (length * math.cos(angle), length * math.sin(angle))


def _add(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return (a[0] + b[0], a[1] + b[1])
