"""C of pointwise operations, by the names that their operands have in torch's schemas.

`{f}` is the suffix of C's functions for the precision of the operation. All conditions are written
such that a NaN comes through.
"""

POINTWISE = {
    "abs": "fabs{f}({self})",
    "add": "{self} + {alpha} * {other}",
    "addcdiv": "{self} + {value} * {tensor1} / {tensor2}",
    "addcmul": "{self} + {value} * {tensor1} * {tensor2}",
    "bitwise_and": "{self} & {other}",
    "bitwise_or": "{self} | {other}",
    "clone": "{self}",
    "copy": "{src}",
    "cos": "cos{f}({self})",
    "div": "{self} / {other}",
    "eq": "{self} == {other}",
    "exp": "exp{f}({self})",
    "expm1": "expm1{f}({self})",
    "fill": "{value}",
    "full": "{fill_value}",
    "full_like": "{fill_value}",
    "ge": "{self} >= {other}",
    "gt": "{self} > {other}",
    "hypot": "hypotenuse{f}({self}, {other})",
    "isinf": "fabs{f}({self}) == __builtin_inf()",
    "isnan": "{self} != {self}",
    "le": "{self} <= {other}",
    "log": "log{f}({self})",
    "log1p": "log1p{f}({self})",
    "logical_and": "{self} && {other}",
    "logical_not": "!{self}",
    "logical_or": "{self} || {other}",
    "lt": "{self} < {other}",
    "mul": "{self} * {other}",
    "ne": "{self} != {other}",
    "neg": "-{self}",
    "new_full": "{fill_value}",
    "new_ones": "1",
    "new_zeros": "0",
    "ones": "1",
    "ones_like": "1",
    "reciprocal": "1 / {self}",
    "relu": "{self} < 0 ? 0 : {self}",
    "rsub": "{other} - {alpha} * {self}",
    "scalar_tensor": "{s}",
    "sigmoid": "1 / (1 + exp{f}(-{self}))",
    "sigmoid_backward": "{grad_output} * (1 - {output}) * {output}",
    "sin": "sin{f}({self})",
    "softplus": (
        "{self} * {beta} > {threshold} ? {self} : log1p{f}(exp{f}({self} * {beta})) / {beta}"
    ),
    "softplus_backward": (
        "{self} * {beta} > {threshold} ? {grad_output} "
        ": {grad_output} / (1 + exp{f}(-{self} * {beta}))"
    ),
    "sqrt": "sqrt{f}({self})",
    "sub": "{self} - {alpha} * {other}",
    "tanh": "tanh{f}({self})",
    "tanh_backward": "{grad_output} * (1 - {output} * {output})",
    "threshold_backward": "{self} <= {threshold} ? 0 : {grad_output}",
    "where": "{condition} ? {self} : {other}",
    "zero": "0",
    "zeros": "0",
    "zeros_like": "0",
}

PRELUDE = """\
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__)
#define VECTORIZED __attribute__((simd("notinbranch")))
#else
#define VECTORIZED
#endif
VECTORIZED float expf(float); VECTORIZED double exp(double);
VECTORIZED float logf(float); VECTORIZED double log(double);
VECTORIZED float sinf(float); VECTORIZED double sin(double);
VECTORIZED float cosf(float); VECTORIZED double cos(double);
float expm1f(float); double expm1(double);
float log1pf(float); double log1p(double);
float tanhf(float); double tanh(double);
float sqrtf(float); double sqrt(double);
float fabsf(float); double fabs(double);
#define HYPOTENUSE(name, real, root, size) \\
static inline real name(real a, real b) { \\
    a = size(a); b = size(b); \\
    const real most = a > b ? a : b, least = a > b ? b : a, ratio = least / most; \\
    return most > 0 && most < __builtin_inf() ? most * root(1 + ratio * ratio) : most + least; \\
}
HYPOTENUSE(hypotenusef, float, sqrtf, fabsf)
HYPOTENUSE(hypotenuse, double, sqrt, fabs)
"""
