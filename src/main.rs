//! The door: arguments → command → exit code.

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(portcullis::cli::tell_panic));
    portcullis::cli::main(std::env::args_os())
}
