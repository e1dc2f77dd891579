//! Version 2.0.0 of the example service: the upgrade that is broken on purpose.

fn main() -> std::process::ExitCode {
    notes::main(notes::Release::V2)
}
