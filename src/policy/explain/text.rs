//! Where in the text of a module an expression of it stands.
//!
//! In: a text and spans of what regorus read in it. Out: places and slices. What must stay true: a slice holds all of an expression and
//! nothing else, also where the parser's span does not.

use regorus::unstable::{Expr, Ref, Span};

/// The text of one module.
#[derive(Clone, Copy)]
pub(super) struct Text<'a>(pub(super) &'a str);

impl<'a> Text<'a> {
    /// Where a span begins in the text. That of a string stands between its quotes, and nothing else stands right behind a quote.
    pub(super) fn start(self, span: &Span) -> usize {
        let at = usize::try_from(span.start).unwrap_or(usize::MAX);
        let before = at.checked_sub(1).filter(|before| self.is_quote(*before));
        before.unwrap_or(at)
    }

    pub(super) fn end(self, span: &Span) -> usize {
        let at = usize::try_from(span.end).unwrap_or(usize::MAX);
        if self.is_quote(at) { at + 1 } else { at }
    }

    fn is_quote(self, at: usize) -> bool {
        matches!(self.0.as_bytes().get(at), Some(b'"' | b'`'))
    }

    /// The text of an expression. regorus 0.14.1 begins the span of an object at its last key, and ends that of `set()` too late.
    pub(super) fn whole(self, expression: &Expr) -> &'a str {
        let span = expression.span();
        match expression {
            Expr::Object { fields, .. } if !fields.is_empty() => {
                let open = self.opened(fields).unwrap_or_else(|| self.start(span));
                self.0.get(open..self.end(span)).unwrap_or_default()
            }
            Expr::Set { items, .. } if items.is_empty() => {
                let text = self.0.get(self.start(span)..).unwrap_or_default();
                text.find(')').and_then(|end| text.get(..=end)).unwrap_or_default()
            }
            _ => self.slice(span, span),
        }
    }

    /// Where the brace of an object stands: before its first key.
    fn opened(self, fields: &[(Span, Ref<Expr>, Ref<Expr>)]) -> Option<usize> {
        let (_, key, _) = fields.first()?;
        let first = match key.as_ref() {
            Expr::Object { fields, .. } if !fields.is_empty() => self.opened(fields)?,
            other => self.start(other.span()),
        };
        self.0.get(..first)?.rfind('{')
    }

    pub(super) fn slice(self, start: &Span, end: &Span) -> &'a str {
        self.0.get(self.start(start)..self.end(end)).unwrap_or_default()
    }
}
