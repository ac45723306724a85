"""Fixed points and their adjoints, batched, to a tolerance that every sample keeps."""

from flow_solvers import krylov
from flow_solvers.adjoint import default_adjoint, solve_adjoint, solve_tangent
from flow_solvers.anderson import Anderson
from flow_solvers.arguments import require_integer, require_kind, require_number, wrong_kind
from flow_solvers.broyden import Broyden
from flow_solvers.compiled import CompiledFunction, CompiledMap
from flow_solvers.defaults import default_solver
from flow_solvers.direct import Direct
from flow_solvers.factors import Factored, Factors, factorise
from flow_solvers.fallback import Fallback
from flow_solvers.function_map import AutogradLinearization, FunctionMap, MapFunction
from flow_solvers.gmres import Gmres, gmres
from flow_solvers.implicit import (
    DerivativeListener,
    OnFailure,
    derivative_error,
    require_on_failure,
)
from flow_solvers.iteration import Method, iterate
from flow_solvers.jacobian import JacobianLinearization
from flow_solvers.kept import KeptTensors
from flow_solvers.linear import (
    Adjoint,
    AdjointSolver,
    LinearSolution,
    Operator,
    Tangent,
    require_adjoint,
)
from flow_solvers.maps import BoundMap, Index, Linearization
from flow_solvers.newton import Newton
from flow_solvers.picard import Picard
from flow_solvers.precision import widen, without_autocast, without_autocast_backward
from flow_solvers.pull_back import added, gradients, leaves_of, pull_back
from flow_solvers.recorded import (
    Functional,
    ParametricFunctional,
    PullBack,
    Recorded,
    RecordingMap,
    SolvedLinearization,
    Unpack,
)
from flow_solvers.resolvent import fixed_point, resolvent
from flow_solvers.samples import SMALL_DIMENSION
from flow_solvers.solution import Solution, SolverError, Status
from flow_solvers.solver import Solver, require_solver
from flow_solvers.tolerance import Tolerance
from flow_solvers.untransformed import Untransformed, refuse_batched, refuse_forward_mode

__all__ = [
    "SMALL_DIMENSION",
    "Adjoint",
    "AdjointSolver",
    "Anderson",
    "AutogradLinearization",
    "BoundMap",
    "Broyden",
    "CompiledFunction",
    "CompiledMap",
    "DerivativeListener",
    "Direct",
    "Factored",
    "Factors",
    "Fallback",
    "FunctionMap",
    "Functional",
    "Gmres",
    "Index",
    "JacobianLinearization",
    "KeptTensors",
    "LinearSolution",
    "Linearization",
    "MapFunction",
    "Method",
    "Newton",
    "OnFailure",
    "Operator",
    "ParametricFunctional",
    "Picard",
    "PullBack",
    "Recorded",
    "RecordingMap",
    "Solution",
    "SolvedLinearization",
    "Solver",
    "SolverError",
    "Status",
    "Tangent",
    "Tolerance",
    "Unpack",
    "Untransformed",
    "added",
    "default_adjoint",
    "default_solver",
    "derivative_error",
    "factorise",
    "fixed_point",
    "gmres",
    "gradients",
    "iterate",
    "krylov",
    "leaves_of",
    "pull_back",
    "refuse_batched",
    "refuse_forward_mode",
    "require_adjoint",
    "require_integer",
    "require_kind",
    "require_number",
    "require_on_failure",
    "require_solver",
    "resolvent",
    "solve_adjoint",
    "solve_tangent",
    "widen",
    "without_autocast",
    "without_autocast_backward",
    "wrong_kind",
]
