// SPDX-License-Identifier: MIT
//! Finds libdirtylog: in DIRTYLOG_LIB_DIR (several directories are separated by colons), else where
//! pkg-config says, else where the linker looks.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DIRTYLOG_LIB_DIR");
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
    if let Ok(directories) = env::var("DIRTYLOG_LIB_DIR") {
        for directory in directories.split(':').filter(|name| !name.is_empty()) {
            println!("cargo:rustc-link-search=native={directory}");
        }
        return;
    }
    let found = Command::new("pkg-config")
        .args(["--libs-only-L", "dirtylog"])
        .output();
    if let Ok(output) = found {
        let flags = String::from_utf8_lossy(&output.stdout).into_owned();
        for directory in flags
            .split_whitespace()
            .filter_map(|flag| flag.strip_prefix("-L"))
        {
            println!("cargo:rustc-link-search=native={directory}");
        }
    }
}
