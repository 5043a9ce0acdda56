//! The runner: holds the model, no key, no way to the network. Started by `leeway-agent`, or by hand for its tools.
use std::process::ExitCode;

fn main() -> ExitCode {
    leeway_agent::io::runner::main(std::env::args().skip(1))
}
