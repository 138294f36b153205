//! What is said of a panic: where, and as much of the message as cannot hold anything a client sent.
//!
//! In: what the runtime tells a hook. Out: one line of the log, or of stderr where no log is set up. A formatted message may quote a
//! value (a string cut inside a character is printed whole by `str`), so it is told up to its first quotation mark.

use std::any::Any;
use std::panic::PanicHookInfo;

use super::talk;

/// A formatted message is told no further than this.
const TOLD: usize = 120;

/// The panic hook of the program.
pub fn tell_panic(panic: &PanicHookInfo<'_>) {
    let message = message(panic.payload());
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(message, place, "panic");
    } else {
        talk(&format!("error: panic at {place}: {message}"));
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(literal) = payload.downcast_ref::<&'static str>() {
        return (*literal).to_owned();
    }
    let formatted = payload.downcast_ref::<String>().map(String::as_str).unwrap_or_default();
    formatted.chars().take(TOLD).take_while(|c| !matches!(c, '`' | '\'' | '"')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_does_not_tell_the_value_it_tripped_over() {
        let text = "né-canary".to_owned();
        let cut = std::panic::catch_unwind(|| text[..2].len()).unwrap_err();
        let told = message(&*cut);
        assert!(!told.contains("canary") && told.contains("byte index"), "{told}");
        assert_eq!(message(&"a literal with a `mark`"), "a literal with a `mark`");
    }
}
