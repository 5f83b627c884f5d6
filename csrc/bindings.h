// What the bindings of all ops share.
#pragma once

#include "kernels.h"

#include <nanobind/nanobind.h>

namespace nb = nanobind;
using Address = uintptr_t;

template <class T = void> T *at(Address address) { return reinterpret_cast<T *>(address); }
