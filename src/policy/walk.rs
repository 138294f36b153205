//! One rule's tree, walked with the scopes of its local names.
//!
//! In: a rule. Out: each reference, call and `with` it contains, and how deep it goes. What must stay true: nothing that an
//! evaluation could reach is left out, and a name is taken for a local one only where the language makes it one: an argument,
//! or declared by `:=`, `some` or `every` in this query or one around it. Treating every name as both would be simpler and
//! would find recursion in each function whose argument is called like a rule.

use std::collections::BTreeSet;

use regorus::Value;
use regorus::unstable::{AssignOp, Expr, Literal, LiteralStmt, Query, Ref, Rule, RuleAssign, RuleBody, RuleHead, Span};

/// One thing a rule does.
pub(super) enum Use<'a> {
    /// A name with literal parts after it, up to the first that is not literal.
    ///
    /// `local`: the name is declared here. `binds`: it stands where a name nobody declared would be given a value.
    Reference {
        root: &'a str,
        steps: Vec<String>,
        span: &'a Span,
        local: bool,
        binds: bool,
    },
    Call {
        function: &'a Expr,
        parameters: &'a [Ref<Expr>],
        span: &'a Span,
    },
    /// `with target as by`
    Replaced {
        target: &'a Expr,
        by: &'a Expr,
        span: &'a Span,
    },
}

/// One part of a reference after its root.
pub(super) enum Step<'a> {
    Literal(String),
    Dynamic(&'a Expr),
}

/// Splits `a.b["c"][x]` into its root and parts; `None` where the root is not a name.
pub(super) fn reference(expression: &Expr) -> Option<(&str, Vec<Step<'_>>)> {
    let mut steps = Vec::new();
    let mut at = expression;
    loop {
        match at {
            Expr::Var { span, .. } => {
                steps.reverse();
                return Some((span.text(), steps));
            }
            Expr::RefDot { refr, field, .. } => {
                steps.push(Step::Literal(field.0.text().to_owned()));
                at = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                steps.push(text(index).map_or(Step::Dynamic(index), Step::Literal));
                at = refr;
            }
            _ => return None,
        }
    }
}

/// The literal parts before the first that is not.
pub(super) fn literal_prefix(steps: &[Step<'_>]) -> Vec<String> {
    steps
        .iter()
        .map_while(|step| match step {
            Step::Literal(text) => Some(text.clone()),
            Step::Dynamic(_) => None,
        })
        .collect()
}

/// A literal string's value.
pub(super) fn text(expression: &Expr) -> Option<String> {
    match expression {
        Expr::String { value: Value::String(text), .. } | Expr::RawString { value: Value::String(text), .. } => {
            Some(text.to_string())
        }
        _ => None,
    }
}

/// Walks a rule and returns how many frames of the interpreter its deepest expression takes.
///
/// With `own_object_get` the bundle has a function of that name, which may do with its argument what it likes.
pub(super) fn rule<'a>(rule: &'a Rule, own_object_get: bool, see: &mut dyn FnMut(Use<'a>)) -> usize {
    let mut walker = Walker { see, own_object_get, scopes: Vec::new(), binding: 0, depth: 2, deepest: 2 };
    match rule {
        Rule::Default { refr, args, value, .. } => {
            walker.scopes.push(args.iter().flat_map(|argument| names_in(argument)).collect());
            walker.head_reference(refr);
            walker.expression(value);
        }
        Rule::Spec { head, bodies, .. } => walker.spec(head, bodies),
    }
    walker.deepest
}

struct Walker<'a, 'f> {
    see: &'f mut dyn FnMut(Use<'a>),
    own_object_get: bool,
    scopes: Vec<BTreeSet<String>>,
    /// Brackets, calls and unifications around this place.
    binding: usize,
    depth: usize,
    deepest: usize,
}

impl<'a> Walker<'a, '_> {
    fn spec(&mut self, head: &'a RuleHead, bodies: &'a [RuleBody]) {
        let arguments = match head {
            RuleHead::Func { args, .. } => args.as_slice(),
            RuleHead::Compr { .. } | RuleHead::Set { .. } => &[],
        };
        self.scopes.push(arguments.iter().flat_map(|argument| names_in(argument)).collect());
        // Patterns in arguments may hold references of their own.
        for argument in arguments {
            self.expression(argument);
        }
        if bodies.is_empty() {
            self.head(head);
        }
        for body in bodies {
            self.scopes.push(declared(&body.query));
            self.head(head);
            self.assigned(body.assign.as_ref());
            self.statements(&body.query);
            self.scopes.pop();
        }
        self.scopes.pop();
    }

    fn head(&mut self, head: &'a RuleHead) {
        match head {
            RuleHead::Compr { refr, assign, .. } | RuleHead::Func { refr, assign, .. } => {
                self.head_reference(refr);
                self.assigned(assign.as_ref());
            }
            RuleHead::Set { refr, key, .. } => {
                self.head_reference(refr);
                if let Some(key) = key {
                    self.expression(key);
                }
            }
        }
    }

    fn assigned(&mut self, assign: Option<&'a RuleAssign>) {
        if let Some(assign) = assign {
            self.expression(&assign.value);
        }
    }

    /// The name a head defines is no use of it; what stands in its brackets is evaluated.
    fn head_reference(&mut self, refr: &'a Expr) {
        match refr {
            Expr::RefDot { refr, .. } => self.head_reference(refr),
            Expr::RefBrack { refr, index, .. } => {
                self.head_reference(refr);
                self.expression(index);
            }
            _ => {}
        }
    }

    fn is_local(&self, name: &str) -> bool {
        self.scopes.iter().any(|scope| scope.contains(name))
    }

    fn query(&mut self, query: &'a Query) {
        self.scopes.push(declared(query));
        self.statements(query);
        self.scopes.pop();
    }

    fn statements(&mut self, query: &'a Query) {
        let before = self.depth;
        for statement in &query.stmts {
            self.statement(statement);
            // Each loop of a query runs inside the loops before it.
            if loops(statement) {
                self.depth = self.depth.saturating_add(1);
            }
        }
        self.depth = before;
    }

    fn statement(&mut self, statement: &'a LiteralStmt) {
        match &statement.literal {
            Literal::SomeVars { .. } => {}
            Literal::SomeIn { key, value, collection, .. } => {
                for part in key.iter().chain([value, collection]) {
                    self.expression(part);
                }
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expression(expr),
            Literal::Every { key, value, domain, query, .. } => {
                self.expression(domain);
                self.scopes.push(key.iter().chain([value]).map(|span| span.text().to_owned()).collect());
                self.depth = self.depth.saturating_add(2);
                self.query(query);
                self.depth = self.depth.saturating_sub(2);
                self.scopes.pop();
            }
        }
        for modifier in &statement.with_mods {
            (self.see)(Use::Replaced { target: &modifier.refr, by: &modifier.r#as, span: &modifier.span });
            self.expression(&modifier.r#as);
            self.brackets(&modifier.refr);
        }
    }

    fn expressions(&mut self, expressions: impl IntoIterator<Item = &'a Ref<Expr>>) {
        for expression in expressions {
            self.expression(expression);
        }
    }

    fn binding(&mut self, expressions: impl IntoIterator<Item = &'a Ref<Expr>>) {
        self.binding = self.binding.saturating_add(1);
        self.expressions(expressions);
        self.binding = self.binding.saturating_sub(1);
    }

    fn expression(&mut self, expression: &'a Expr) {
        self.depth = self.depth.saturating_add(1);
        self.deepest = self.deepest.max(self.depth);
        match expression {
            Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. } => {}
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.referenced(expression),
            Expr::Array { items, .. } | Expr::Set { items, .. } => self.expressions(items),
            Expr::Object { fields, .. } => self.expressions(fields.iter().flat_map(|(_, key, value)| [key, value])),
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => self.comprehension(&[term], query),
            Expr::ObjectCompr { key, value, query, .. } => self.comprehension(&[key, value], query),
            Expr::Call { span, fcn, params, .. } => self.call(span, fcn, params),
            Expr::UnaryExpr { expr, .. } => self.expression(expr),
            Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } => self.assignment(lhs, rhs),
            Expr::AssignExpr { op: AssignOp::Eq, lhs, rhs, .. } => self.binding([lhs, rhs]),
            Expr::BinExpr { lhs, rhs, .. } | Expr::BoolExpr { lhs, rhs, .. } | Expr::ArithExpr { lhs, rhs, .. } => {
                self.expressions([lhs, rhs]);
            }
            Expr::Membership { key, value, collection, .. } => self.expressions(key.iter().chain([value, collection])),
        }
        self.depth = self.depth.saturating_sub(1);
    }

    /// `x := x` reads an outer `x`: what stands on the right does not see the names on the left as local.
    fn assignment(&mut self, left: &'a Expr, right: &'a Expr) {
        self.expression(left);
        let names: Vec<String> = names_in(left).collect();
        let inner = self.scopes.len().saturating_sub(1);
        let removed: Vec<String> = self
            .scopes
            .get_mut(inner)
            .map(|scope| names.into_iter().filter(|name| scope.remove(name)).collect())
            .unwrap_or_default();
        self.expression(right);
        if let Some(scope) = self.scopes.get_mut(inner) {
            scope.extend(removed);
        }
    }

    fn comprehension(&mut self, terms: &[&'a Ref<Expr>], query: &'a Query) {
        self.scopes.push(declared(query));
        self.depth = self.depth.saturating_add(2);
        self.statements(query);
        // The term is evaluated inside all loops of the query.
        let loops = query.stmts.iter().filter(|statement| loops(statement)).count();
        self.depth = self.depth.saturating_add(loops);
        self.expressions(terms.iter().copied());
        self.depth = self.depth.saturating_sub(loops.saturating_add(2));
        self.scopes.pop();
    }

    fn referenced(&mut self, expression: &'a Expr) {
        match reference(expression) {
            Some((root, steps)) => {
                let local = self.is_local(root) && !matches!(root, "input" | "data");
                let (steps, binds) = (literal_prefix(&steps), self.binding > 0);
                (self.see)(Use::Reference { root, steps, span: expression.span(), local, binds });
                self.brackets(expression);
            }
            // The root is a call, an array, a comprehension: what it reads counts, whatever is picked from it.
            None => match expression {
                Expr::RefDot { refr, .. } => self.expression(refr),
                Expr::RefBrack { refr, index, .. } => {
                    self.expression(refr);
                    self.binding([index]);
                }
                _ => {}
            },
        }
    }

    fn brackets(&mut self, refr: &'a Expr) {
        if let Some((_, steps)) = reference(refr) {
            self.binding = self.binding.saturating_add(1);
            for step in steps {
                if let Step::Dynamic(index) = step {
                    self.expression(index);
                }
            }
            self.binding = self.binding.saturating_sub(1);
        }
    }

    fn call(&mut self, span: &'a Span, function: &'a Expr, parameters: &'a [Ref<Expr>]) {
        (self.see)(Use::Call { function, parameters, span });
        // Of the bare input only: `object.get(input.a, "b", d)` also tells whether there is an `input.a`.
        if let [object, key, rest @ ..] = parameters
            && !self.own_object_get
            && is_object_get(function)
            && matches!(object.as_ref(), Expr::Var { .. })
            && object.span().text() == "input"
        {
            (self.see)(Use::Reference { root: "input", steps: keys(key), span: object.span(), local: false, binds: true });
            self.binding(std::iter::once(key).chain(rest));
        } else {
            self.binding(parameters);
        }
    }
}

fn is_object_get(function: &Expr) -> bool {
    reference(function).is_some_and(|(root, steps)| root == "object" && literal_prefix(&steps) == ["get"] && steps.len() == 1)
}

/// The literal keys `object.get` follows: one, or the first ones of an array.
fn keys(key: &Expr) -> Vec<String> {
    match key {
        Expr::Array { items, .. } => items.iter().map_while(|item| text(item)).collect(),
        _ => text(key).into_iter().collect(),
    }
}

/// Every name in a pattern.
pub(super) fn names_in(pattern: &Expr) -> Box<dyn Iterator<Item = String> + '_> {
    match pattern {
        Expr::Var { span, .. } => Box::new(std::iter::once(span.text().to_owned())),
        Expr::Array { items, .. } | Expr::Set { items, .. } => Box::new(items.iter().flat_map(|item| names_in(item))),
        Expr::Object { fields, .. } => Box::new(fields.iter().flat_map(|(_, _, value)| names_in(value))),
        _ => Box::new(std::iter::empty()),
    }
}

/// The names a query makes local by itself.
pub(super) fn declared(query: &Query) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for statement in &query.stmts {
        match &statement.literal {
            Literal::SomeVars { vars, .. } => names.extend(vars.iter().map(|span| span.text().to_owned())),
            Literal::SomeIn { key, value, .. } => {
                names.extend(key.iter().chain([value]).flat_map(|pattern| names_in(pattern)));
            }
            Literal::Expr { expr, .. } => {
                if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } = expr.as_ref() {
                    names.extend(names_in(lhs));
                }
            }
            Literal::NotExpr { .. } | Literal::Every { .. } => {}
        }
    }
    names
}

/// True when a statement may run what follows it more than once.
fn loops(statement: &LiteralStmt) -> bool {
    match &statement.literal {
        Literal::SomeIn { .. } => true,
        Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => may_iterate(expr),
        Literal::SomeVars { .. } | Literal::Every { .. } => false,
    }
}

fn may_iterate(expression: &Expr) -> bool {
    match expression {
        Expr::RefBrack { refr, index, .. } => text(index).is_none() || may_iterate(refr),
        Expr::RefDot { refr, .. } => may_iterate(refr),
        Expr::UnaryExpr { expr, .. } => may_iterate(expr),
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. } => may_iterate(lhs) || may_iterate(rhs),
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().any(|item| may_iterate(item)),
        Expr::Object { fields, .. } => fields.iter().any(|(_, key, value)| may_iterate(key) || may_iterate(value)),
        Expr::Call { .. } => true,
        Expr::Membership { value, collection, .. } => may_iterate(value) || may_iterate(collection),
        _ => false,
    }
}
