//! What went wrong, for people and for scripts: one line, what to do about it, and a stable exit code.
//!
//! Codes: 0 ok · 1 failure · 2 usage · 3 ended unhealthy · 4 sign-in needed · 5 not found · 6 conflict · 7 server unreachable ·
//! 124 timeout. Data goes to standard output, this to standard error; never a backtrace.
use std::fmt;
use std::process::ExitCode;

/// An ended command.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
    help: Option<String>,
}

/// The result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with code 1.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string(), help: None }
    }

    /// The same with another exit code.
    #[must_use]
    pub fn code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The same with what to do next.
    #[must_use]
    pub fn help(self, help: impl fmt::Display) -> Self {
        Self { help: Some(help.to_string()), ..self }
    }

    /// Whether it says that something does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == 5
    }

    /// Whether trying again cannot help: usage, sign-in, not found.
    pub fn is_final(&self) -> bool {
        matches!(self.code, 2 | 4 | 5)
    }

    /// Whether the controller did not answer at all: worth another try.
    pub fn is_unreachable(&self) -> bool {
        self.code == 7
    }

    /// Message and help, as printed.
    #[cfg(test)]
    pub fn whole(&self) -> String {
        let help = self.help.as_ref().map(|help| format!("\nhelp: {help}")).unwrap_or_default();
        format!("error: {}{help}", self.message)
    }

    /// Print it and give the exit code.
    pub fn exit(&self) -> ExitCode {
        eprintln!("error: {}", self.message);
        if let Some(help) = &self.help {
            eprintln!("help: {help}");
        }
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = inner.source();
        }
        Self::new(message)
    }
}

/// Adds what was being done to an error.
pub trait During<T> {
    /// Say what was being done, such as `reading F`.
    fn during(self, doing: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: std::error::Error> During<T> for Result<T, E> {
    fn during(self, doing: impl fmt::Display) -> Outcome<T> {
        self.map_err(|e| {
            let failure = Failure::from(e);
            Failure { message: format!("{doing}: {}", failure.message), ..failure }
        })
    }
}
