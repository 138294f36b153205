//! Calls of builtins that must not judge: unknown ones, ones that reach outside, and ones that can take the process down.
//!
//! In: a call's name and arguments. Out: findings. What must stay true: with the arguments that pass, no builtin can allocate
//! without bound, overflow the stack or run for seconds, whatever the input holds. The execution timer cannot do this: it is
//! looked at between expressions, never inside a builtin, and an allocation that fails aborts. Each entry was seen to happen
//! in regorus 0.14.1. Panics (`strings.count(x, "")` with an empty x from the input) are left to the engine, which catches them.

use regorus::Value;
use regorus::unstable::{ArithOp, BUILTINS, Expr, Ref};

use super::Finding;
use super::program::{Occurrence, Program};
use super::{builtins, walk};

const OFFLINE: &str = "the gate computes no such thing; put its result into data";
const SECRETS: &str = "a policy handles no private keys; give public keys or certificates";
const DEPRECATED: &str = "OPA deprecated it; its documentation names what to write instead";

/// Whole names, and with a dot at the end whole families of them.
const FORBIDDEN: &[(&str, &str)] = &[
    ("http.send", "the gate makes no calls of its own; put what the policy needs into data or a feed"),
    ("opa.runtime", "it shows environment variables; read input.environment"),
    ("net.lookup_ip_addr", "the gate looks up no names; read input.connection"),
    ("rand.intn", "a verdict must not depend on chance"),
    ("trace", "it changes the value of the rule it stands in; use print in tests"),
    ("graph.reachable_paths", "a long path overflows the stack; use graph.reachable"),
    ("io.jwt.encode_sign", "the gate issues no tokens; verify them with io.jwt.decode_verify"),
    ("io.jwt.encode_sign_raw", "the gate issues no tokens; verify them with io.jwt.decode_verify"),
    ("crypto.parse_private_keys", SECRETS),
    ("crypto.x509.parse_keypair", SECRETS),
    ("crypto.x509.parse_rsa_private_key", SECRETS),
    ("crypto.x509.parse_certificate_request", "the gate signs no certificates; use crypto.x509.parse_certificates"),
    ("providers.aws.sign_req", "the gate signs no requests in policy; name an upstream credential in the verdict"),
    ("rego.metadata.", "annotations are not kept; put what the rule needs into the rule or into data"),
    ("rego.parse_module", OFFLINE),
    ("strings.render_template", "templates run without a bound; use sprintf or concat"),
    ("json.match_schema", "the gate checks no JSON schemas in policy; compare the fields the rule needs"),
    ("json.verify_schema", "the gate checks no JSON schemas in policy; compare the fields the rule needs"),
    ("regex.globs_match", "it takes time without a bound; ask glob.match for each"),
    ("internal.", "it is no builtin for policies"),
    ("all", "OPA deprecated it; use every x in collection { x }"),
    ("any", "OPA deprecated it; use true in collection"),
    ("re_match", "OPA deprecated it; use regex.match"),
    ("set_diff", "OPA deprecated it; use one - other"),
    ("net.cidr_overlap", "OPA deprecated it; use net.cidr_contains"),
    ("cast_array", DEPRECATED),
    ("cast_boolean", DEPRECATED),
    ("cast_null", DEPRECATED),
    ("cast_object", DEPRECATED),
    ("cast_set", DEPRECATED),
    ("cast_string", DEPRECATED),
];

/// Results no longer than this many elements are harmless.
const RANGE: i64 = 10_000;
/// `bits.lsh` makes numbers this many bits long at most.
const SHIFT: i64 = 1024;

/// True when the engine itself has a function of this name.
pub(super) fn is_builtin(name: &str) -> bool {
    name == "print" || arity(name).is_some() || forbidden(name).is_some()
}

/// How many arguments a builtin takes.
pub(super) fn arity(name: &str) -> Option<usize> {
    let own = builtins::find(name).map(|builtin| builtin.arity);
    own.or_else(|| BUILTINS.get(name).map(|(_, arity)| *arity)).map(usize::from)
}

/// Why a builtin may not be called.
fn forbidden(name: &str) -> Option<&'static str> {
    let meant = |listed: &str| if listed.ends_with('.') { name.starts_with(listed) } else { name == listed };
    FORBIDDEN.iter().find(|(listed, _)| meant(listed)).map(|(_, hint)| *hint)
}

/// What is wrong with a call that is not of a rule of the bundles.
pub(super) fn of_call(name: &str, arguments: &[Ref<Expr>], place: &Occurrence, program: &Program) -> Vec<Finding> {
    if let Some(hint) = forbidden(name) {
        return vec![place.finding(format!("`{name}` may not be called"), hint)];
    }
    if name == "print" {
        return Vec::new();
    }
    let Some(arity) = arity(name) else {
        return vec![place.finding(format!("`{name}` is neither a builtin nor a function of the bundles"), &nearest(name))];
    };
    if arguments.len() == arity.saturating_add(1) && builtins::find(name).is_some() {
        let hint = "write it as an equation: `result = call`";
        return vec![place.finding(format!("`{name}` takes {arity} arguments and is given one more"), hint)];
    }
    // One argument more is where the result goes: `startswith(a, b, result)`.
    if arguments.len() != arity && arguments.len() != arity.saturating_add(1) {
        return vec![place.finding(format!("`{name}` takes {arity} arguments and is given {}", arguments.len()), "")];
    }
    let fixed = Fixed { program };
    fixed.danger(name, arguments).map(|(what, hint)| place.finding(format!("`{name}` {what}"), hint)).into_iter().collect()
}

fn nearest(name: &str) -> String {
    BUILTINS
        .keys()
        .copied()
        .chain(builtins::ALL.iter().map(|builtin| builtin.name))
        .map(|known| (strsim::osa_distance(name, known), known))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map_or_else(String::new, |(_, known)| format!("did you mean `{known}`?"))
}

/// Tells what the input cannot change.
struct Fixed<'a> {
    program: &'a Program,
}

impl Fixed<'_> {
    fn danger(&self, name: &str, arguments: &[Ref<Expr>]) -> Option<(&'static str, &'static str)> {
        let argument = |index: usize| arguments.get(index).map(|argument| argument.as_ref());
        let literal_here = "write the text here as a literal, or keep it in data";
        match name {
            "numbers.range" if !bounded(argument(0)) || !bounded(argument(1)) => {
                Some(("with these bounds can ask for more memory than there is", "give literal bounds up to 10000, or count(…)"))
            }
            "numbers.range_step" if !bounded(argument(0)) || !bounded(argument(1)) || !positive(argument(2)) => Some((
                "with these arguments can ask for more memory than there is",
                "give literal bounds up to 10000 or count(…), and a literal step above 0",
            )),
            "bits.lsh" if !argument(1).and_then(integer).is_some_and(|shift| (0..=SHIFT).contains(&shift)) => {
                Some(("by this much can make a number of 512 MiB", "give a literal shift up to 1024"))
            }
            "net.cidr_expand" if !argument(0).and_then(walk::text).is_some_and(|network| small_network(&network)) => {
                Some(("can expand to more addresses than memory holds", "give a literal network of up to 4096 addresses"))
            }
            "sprintf" if !argument(0).and_then(walk::text).is_some_and(|format| narrow(&format)) => {
                Some(("with this format can ask for gigabytes", "write the format as a literal, with widths up to three digits"))
            }
            "strings.count" if argument(1).and_then(walk::text).is_some_and(|text| text.is_empty()) => {
                Some(("of an empty text fails", "give the text to count"))
            }
            "concat" if !self.fixed(argument(0)) => Some(("repeats a text the input can choose", literal_here)),
            "replace" if !self.fixed(argument(0)) && !self.fixed(argument(2)) => {
                Some(("multiplies one text of the input by another", literal_here))
            }
            "regex.replace" if !self.fixed(argument(0)) && !self.fixed(argument(2)) => {
                Some(("multiplies one text of the input by another", literal_here))
            }
            "strings.replace_n" if !self.fixed(argument(0)) => Some(("multiplies one text of the input by another", literal_here)),
            "json.patch" if !argument(1).is_some_and(few_edits) => {
                Some(("with patches the input can choose can double a document again and again", "write the patches as a literal"))
            }
            "json.marshal_with_options" if !self.fixed(argument(1)) => {
                Some(("repeats an indent the input can choose", "write the options as a literal"))
            }
            _ => None,
        }
    }

    /// True for literals, and for data no rule computes.
    fn fixed(&self, expression: Option<&Expr>) -> bool {
        match expression {
            None => false,
            Some(Expr::Object { fields, .. }) => {
                fields.iter().all(|(_, key, value)| self.fixed(Some(key)) && self.fixed(Some(value)))
            }
            Some(Expr::Array { items, .. } | Expr::Set { items, .. }) => items.iter().all(|item| self.fixed(Some(item))),
            Some(Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. }) => true,
            Some(expression) if walk::text(expression).is_some() => true,
            Some(expression) => self.plain_data(expression),
        }
    }

    /// Only what is written out from `data`: an import's alias may be the name of an argument as well.
    fn plain_data(&self, expression: &Expr) -> bool {
        let Some(("data", steps)) = walk::reference(expression) else { return false };
        let path = walk::literal_prefix(&steps);
        !path.is_empty() && self.program.is_plain_data(&path)
    }
}

fn integer(expression: &Expr) -> Option<i64> {
    match expression {
        Expr::Number { value: Value::Number(number), .. } => number.as_i64(),
        Expr::UnaryExpr { expr, .. } => integer(expr).and_then(i64::checked_neg),
        _ => None,
    }
}

/// A small literal, or what `count` says of something that already is in memory, give or take a small literal.
fn bounded(expression: Option<&Expr>) -> bool {
    match expression {
        Some(Expr::Call { fcn, .. }) => walk::reference(fcn).is_some_and(|(root, steps)| root == "count" && steps.is_empty()),
        Some(Expr::ArithExpr { op: ArithOp::Add | ArithOp::Sub, lhs, rhs, .. }) => {
            bounded(Some(lhs)) && integer(rhs).is_some_and(|number| number.unsigned_abs() <= RANGE.unsigned_abs())
        }
        Some(expression) => integer(expression).is_some_and(|number| number.unsigned_abs() <= RANGE.unsigned_abs()),
        None => false,
    }
}

/// A literal list of at most 64 edits, each with its kind and path written out, none of which copies.
fn few_edits(patches: &Expr) -> bool {
    let Expr::Array { items, .. } = patches else { return false };
    let written = |edit: &Expr, name: &str| {
        let Expr::Object { fields, .. } = edit else { return None };
        let (_, _, value) = fields.iter().find(|(_, key, _)| walk::text(key).is_some_and(|key| key == name))?;
        walk::text(value)
    };
    items.len() <= 64
        && items.iter().all(|edit| written(edit, "path").is_some() && written(edit, "op").is_some_and(|kind| kind != "copy"))
}

fn positive(expression: Option<&Expr>) -> bool {
    expression.and_then(integer).is_some_and(|step| step > 0)
}

fn small_network(network: &str) -> bool {
    network.parse::<ipnet::IpNet>().is_ok_and(|network| network.max_prefix_len().saturating_sub(network.prefix_len()) <= 12)
}

/// True when no width or precision of a format has more than three ASCII digits.
fn narrow(format: &str) -> bool {
    format.split('%').skip(1).all(|verb| {
        let number: Vec<char> = verb.chars().take_while(|c| c.is_numeric() || *c == '.').collect();
        number.iter().filter(|c| **c != '.').count() <= 3 && number.iter().all(|c| c.is_ascii())
    })
}
