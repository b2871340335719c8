// SPDX-License-Identifier: MIT
module example.org/dirtylog

go 1.19
