"""Sines and cosines in single precision for a few cycles each.

x = n·π/2 + r with |r| ≤ π/4, where π/2 has three parts whose products with n are exact (Cody and
Waite 1980), then polynomials in r. A sine and a cosine of one number share all of it, and nothing
is called. It holds up to |x| = 8192; `far` tells of larger ones, for which the library is asked.
"""

NEAR = {
    "sin{f}({self})": "near_sine({self}, &far)",
    "cos{f}({self})": "near_cosine({self}, &far)",
}
"""What takes the place of a template where the numbers are small."""

CIRCULAR = """\
typedef struct { float sine, cosine; int quarter; } near_angle;
static inline near_angle near_reduced(float x, int *far) {
    const float n = (x * 0.636619772f + 12582912.0f) - 12582912.0f;
    const float r = ((x - n * 1.5703125f) - n * 4.837512969970703125e-4f) - n * 7.549789948e-8f;
    const float s = r * r;
    const float sine = -1.6666654611e-1f + s * (8.3321608736e-3f - s * 1.9515295891e-4f);
    const float cosine = 4.166664568e-2f + s * (-1.388731625e-3f + s * 2.443315711e-5f);
    *far |= fabsf(x) > 8192;
    return (near_angle){r + r * s * sine, 1 - 0.5f * s + s * s * cosine, (int)n};
}
static inline float near_sine(float x, int *far) {
    const near_angle a = near_reduced(x, far);
    const float value = a.quarter & 1 ? a.cosine : a.sine;
    return a.quarter & 2 ? -value : value;
}
static inline float near_cosine(float x, int *far) {
    const near_angle a = near_reduced(x, far);
    const float value = a.quarter & 1 ? a.sine : a.cosine;
    return (a.quarter + 1) & 2 ? -value : value;
}
"""
