//! Version 1.0.0 of the example service.

fn main() -> std::process::ExitCode {
    notes::main(notes::Release::V1)
}
