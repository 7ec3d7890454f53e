"""Who takes part in a workflow: the roles of each domain, and the role sets that a planner chooses from.

A new role is one line in its domain's ``roles``, a new role set one name in ``role_sets``, a new domain one `Domain` in
``DOMAINS``. The role sets of math and code are those of the theory document (2.2); roles of general questions are
MasRouter's (arXiv 2502.11133).
"""

from dataclasses import dataclass

from inframind.traces import ConfigError

SEPARATOR = "+"


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of agent."""

    name: str
    instruction: str
    """What the model is told to be and to do."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A kind of query, and who can work on it."""

    name: str
    introduction: str
    """How every prompt of the domain begins; it names the form of the answer, so that answers can be graded."""
    roles: tuple[Role, ...]
    role_sets: tuple[str, ...]
    """The planner's menu: names of roles joined by ``+``, in the order in which they speak."""

    def agents(self, role_set: str) -> tuple[Role, ...]:
        """The roles of a role set; any roles of the domain may be combined, and a role may come more than once.

        Raises
        ------
        ConfigError
            It names a role that the domain has not.
        """
        known = {role.name: role for role in self.roles}
        names = role_set.split(SEPARATOR)
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(
                "workflow",
                [f"role set {role_set!r}: unknown role {unknown[0]!r} of {self.name}; known: {', '.join(known)}"],
            )
        return tuple(known[name] for name in names)


DECIDER = Role(
    "Decider",
    "You make the final decision. Compare the answers above, find out which reasoning holds, and give the one final "
    "answer. A majority is a hint, not a proof.",
)
"""Joins several answers into one, in every domain."""

MATH = Domain(
    name="math",
    introduction="Several experts work together on a mathematical problem. Every answer ends with the final result in "
    "\\boxed{}.",
    roles=(
        Role("MathSolver", "You are a math expert. Solve the problem and show the steps that matter."),
        Role("Mathematician", "You are a mathematician. Derive the result rigorously, and prove what you rely on."),
        Role("MathTeacher", "You are a math teacher. Explain the solution step by step, so that each can be followed."),
        Role("MathAnalyst", "You are a math analyst. Name the quantities and how they relate, then compute with them."),
        Role("Inspector", "You are an inspector. Check the reasoning and the arithmetic so far, and correct mistakes."),
    ),
    role_sets=(
        "MathSolver",
        "MathSolver+Mathematician",
        "MathSolver+Mathematician+MathTeacher",
        "MathSolver+Inspector",
        "MathAnalyst+Mathematician+Inspector",
    ),
)

CODE = Domain(
    name="code",
    introduction="Several experts work together on a programming task. Every answer ends with the complete Python code "
    "in one ```python block, and keeps the function's name and signature.",
    roles=(
        Role("ProgrammingExpert", "You are a programming expert. Write the complete, correct code."),
        Role("TestAnalyst", "You are a test analyst. Find inputs on which the code would fail, then write it mended."),
        Role("ProjectManager", "You are a project manager. Plan the functions and their duties, then draft the code."),
        Role("AlgorithmDesigner", "You are an algorithm designer. State the algorithm and its cost, then code it."),
        Role("BugFixer", "You are a bug fixer. Look for errors in the code so far, and write it without them."),
    ),
    role_sets=(
        "ProgrammingExpert",
        "ProgrammingExpert+TestAnalyst",
        "ProjectManager+ProgrammingExpert+TestAnalyst",
        "AlgorithmDesigner+ProgrammingExpert",
        "BugFixer+ProgrammingExpert",
    ),
)

QA = Domain(
    name="qa",
    introduction="Several experts work together on a question of general knowledge. Every answer ends with a line "
    "'Answer: ' and the answer alone.",
    roles=(
        Role("KnowledgeExpert", "You are a knowledge expert. Recall the facts that bear on the question, and answer."),
        Role("Critic", "You are a critic. Say where the answers so far are weak or wrong, and give a better one."),
        Role("Scientist", "You are a scientist. Answer from first principles and from what has been measured."),
        Role("Historian", "You are a historian. Answer from what happened, with names, dates and causes."),
        Role("Reflector", "You are a reflector. Ask which reading of the question is meant, and answer that one."),
    ),
    role_sets=(
        "KnowledgeExpert",
        "KnowledgeExpert+Critic",
        "KnowledgeExpert+Scientist+Critic",
        "KnowledgeExpert+Reflector",
        "KnowledgeExpert+Scientist+Historian",
    ),
)

DOMAINS = {domain.name: domain for domain in (MATH, CODE, QA)}

ROLE_NAMES = (*(role.name for domain in DOMAINS.values() for role in domain.roles), DECIDER.name)
"""All roles, in the order that a learnt table of role embeddings has."""


def domain_of(name: str) -> Domain:
    """A domain by its name.

    Raises
    ------
    ConfigError
        There is none of that name.
    """
    if name not in DOMAINS:
        raise ConfigError("workflow", [f"unknown domain {name!r}; known: {', '.join(DOMAINS)}"])
    return DOMAINS[name]
