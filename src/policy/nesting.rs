//! Nesting, chains and exponents of a Rego file, measured before the parser sees it.
//!
//! In: a text. Out: nothing, or the place that goes too deep. What must stay true: no text that passes can overflow a stack or
//! take the parser exponential time. regorus bounds its own recursion only inside parentheses and comprehensions: `[[[[…`
//! doubles its time with each bracket, `----1`, `f(f(f(…` and `1+1+1+…` overflow the stack in the parser, in the evaluation or
//! when the tree is dropped, and each of these aborts the process. The exponent of `0e40000000` is multiplied out by the parser, which
//! takes minutes. A limit after parsing would come too late.

/// Brackets of any kind that may be open at once, the braces of a rule's body included.
const DEPTH: usize = 14;
/// Operators, dots and brackets that may follow each other in one expression.
const CHAIN: usize = 200;
/// Digits an exponent may have; a double ends at 308.
const EXPONENT: usize = 3;

/// Where a text goes too deep, one-based, and in what way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooDeep {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) message: String,
    pub(super) hint: &'static str,
}

/// Reads a text's brackets and operators, and nothing else of it.
///
/// # Errors
/// The first place where a bound is passed.
pub(super) fn check(text: &str) -> Result<(), TooDeep> {
    Scanner { line: 1, column: 0, open: vec![0], after_operator: false, new_line: false, exponent: false }.scan(text)
}

struct Scanner {
    line: u32,
    column: u32,
    /// For each open bracket, the length of the chain in it.
    open: Vec<usize>,
    after_operator: bool,
    /// A line ended where an expression could end; what comes next tells whether it did.
    new_line: bool,
    /// A number ended in `e`, perhaps with a sign behind it: its exponent comes next.
    exponent: bool,
}

impl Scanner {
    fn scan(mut self, text: &str) -> Result<(), TooDeep> {
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            self.column = self.column.saturating_add(1);
            match character {
                '\n' => {
                    self.line = self.line.saturating_add(1);
                    self.column = 0;
                    self.new_line |= !self.after_operator;
                }
                _ if character.is_whitespace() => {}
                '#' => while rest.next_if(|&next| next != '\n').is_some() {},
                '"' | '`' => {
                    self.operand();
                    self.skip_string(character, &mut rest);
                }
                '(' | '[' | '{' => {
                    self.operator(1)?;
                    self.open.push(0);
                    if self.open.len() > DEPTH + 1 {
                        return Err(self.too_deep(format!("more than {DEPTH} brackets are open at once")));
                    }
                }
                ')' | ']' | '}' => {
                    if self.open.len() > 1 {
                        self.open.pop();
                    }
                    self.after_operator = false;
                }
                ',' | ';' => self.restart(),
                _ if character.is_alphanumeric() || character == '_' => {
                    let mut word = String::from(character);
                    while let Some(next) = rest.next_if(|next| next.is_alphanumeric() || *next == '_') {
                        word.push(next);
                        self.column = self.column.saturating_add(1);
                    }
                    self.number(&word)?;
                    if word == "in" { self.operator(1)? } else { self.operand() }
                }
                _ => {
                    self.exponent &= matches!(character, '+' | '-');
                    self.operator(1)?;
                }
            }
        }
        Ok(())
    }

    /// Looks at a word that may be a number, or the rest of one.
    fn number(&mut self, word: &str) -> Result<(), TooDeep> {
        let begun = std::mem::take(&mut self.exponent);
        let exponent = match word.split_once(['e', 'E']) {
            _ if begun => Some(word),
            Some((_, exponent)) if word.starts_with(|first: char| first.is_ascii_digit()) => Some(exponent),
            _ => None,
        };
        self.exponent = exponent == Some("");
        if exponent.is_some_and(|digits| digits.chars().take_while(char::is_ascii_digit).count() > EXPONENT) {
            let message = format!("an exponent of more than {EXPONENT} digits");
            let hint = "write the number out; the engine would multiply the exponent out";
            return Err(TooDeep { hint, ..self.too_deep(message) });
        }
        Ok(())
    }

    fn skip_string(&mut self, quote: char, rest: &mut std::iter::Peekable<std::str::Chars<'_>>) {
        while let Some(character) = rest.next() {
            self.column = self.column.saturating_add(1);
            match character {
                '\n' => {
                    self.line = self.line.saturating_add(1);
                    self.column = 0;
                    // A string in quotes ends with its line; the parser says so, and what follows must still be measured.
                    if quote == '"' {
                        return;
                    }
                }
                '\\' if quote == '"' => {
                    rest.next();
                    self.column = self.column.saturating_add(1);
                }
                _ if character == quote => return,
                _ => {}
            }
        }
    }

    fn operand(&mut self) {
        if self.new_line {
            self.restart();
        }
        self.after_operator = false;
    }

    fn operator(&mut self, length: usize) -> Result<(), TooDeep> {
        self.new_line = false;
        self.after_operator = true;
        if let Some(chain) = self.open.last_mut() {
            *chain = chain.saturating_add(length);
            if *chain > CHAIN {
                return Err(self.too_deep(format!("more than {CHAIN} operators, dots or brackets in one expression")));
            }
        }
        Ok(())
    }

    fn restart(&mut self) {
        self.new_line = false;
        self.after_operator = false;
        if let Some(chain) = self.open.last_mut() {
            *chain = 0;
        }
    }

    fn too_deep(&self, message: String) -> TooDeep {
        let hint = "split the expression into rules; a deeper one would overflow the engine's stack";
        TooDeep { line: self.line, column: self.column, message, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_abort_the_process_are_stopped_before_the_parser() {
        for shape in [
            "-".repeat(5000),
            "- ".repeat(5000),
            "[".repeat(20),
            "{\"a\":".repeat(20),
            "abs(".repeat(900),
            "1+".repeat(5000),
            "1+\n".repeat(5000),
            "1\n+".repeat(5000),
            "{1}|".repeat(3000),
            "1 in ".repeat(3000),
            "1\nin ".repeat(3000),
            "input[".repeat(900),
            "a.b".repeat(3000),
            "a[0]".repeat(3000),
            "(\"#\\\"\" + ".repeat(20),
            "[ # {\n".repeat(20),
            "0e40000000                    ".to_owned(),
            "0.0E40000000                  ".to_owned(),
            "0e+40000000                   ".to_owned(),
            "[1, 0e-40000000, 2]           ".to_owned(),
            "0e0000040000000               ".to_owned(),
        ] {
            assert!(check(&format!("package a\nr := x if {{ x := {shape}")).is_err(), "{}", &shape[..20]);
        }
    }

    #[test]
    fn long_plain_policies_pass() {
        let rule = "allow if {\n\tinput.request.method == \"GET\"\n\tinput.a.b[0].c in {\"x\", `{{{{`} # [[[[ \"\n}\n\n";
        assert_eq!(check(&rule.repeat(5000)), Ok(()));
        assert_eq!(check(&format!("x := {{{}}}", "\"a.b.c\", ".repeat(5000))), Ok(()));
        assert_eq!(check(&"else := 1 if input.a == 2\n".repeat(5000)), Ok(()));
        assert_eq!(check("x := [1e300, 1.5E-300, 1e+10, 12345678 - 40000000, e40000000, a1e40000000, \"1e40000000\"]"), Ok(()));
    }
}
