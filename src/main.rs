//! The `app-gateway` program.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
