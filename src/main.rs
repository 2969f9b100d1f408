//! The `freeze` executable: reads the command line and hands over to [`freeze::commands`].

fn main() -> std::process::ExitCode {
    freeze::commands::main()
}
