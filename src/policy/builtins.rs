//! The builtins of OPA that regorus lacks, for both engines.
//!
//! In: arguments. Out: what OPA says of them, `None` for undefined. What must stay true: each is pure (the clock is the one
//! exception, read once an evaluation and known to the footprint), never fails, and takes time and memory in proportion to its
//! arguments. The interpreter has them as extensions. The VM knows extensions only as calls it stops for and asks its host; a VM
//! that stops runs other code than one that does not, so each such stop is made an ordinary call once the program is compiled.
//!
//! Where OPA is looser than its RFCs we say no: an RSA key below 2,048 or above 8,192 bits, a PSS salt of another length than the
//! hash, an elliptic curve of another size than the hash (RFC 7518 section 3), a private RSA key as a JWK and a lone surrogate in
//! JSON give false or undefined. Whole numbers beyond 64 bits in a token are floats, as everywhere in regorus' JSON.

mod certificate;
mod chain;
mod digest;
pub(super) mod encoding;
mod graphql;
mod jwt;
pub(super) mod keys;
mod lists;
pub(super) mod network;
mod uri;

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use regorus::rvm::Program;
use regorus::rvm::instructions::{BuiltinCallParams, Instruction};
use regorus::rvm::program::BuiltinInfo;
use regorus::unstable::{BUILTINS, BuiltinFcn, Expr, Ref};
use regorus::{Engine, LimitError, Value};

use super::walk;

/// A builtin was asked for more than one evaluation may cost.
pub(super) struct TooLong;

/// What a builtin says.
struct Answer(Result<Value, TooLong>);

impl From<Option<Value>> for Answer {
    fn from(value: Option<Value>) -> Self {
        Self(Ok(value.unwrap_or(Value::Undefined)))
    }
}

impl From<Result<Option<Value>, TooLong>> for Answer {
    fn from(value: Result<Option<Value>, TooLong>) -> Self {
        Self(value.map(|value| value.unwrap_or(Value::Undefined)))
    }
}

impl From<TooLong> for LimitError {
    /// Both engines end the evaluation of a limit even where they take other errors for undefined.
    fn from(_: TooLong) -> Self {
        Self::TimeLimitExceeded { elapsed: Duration::ZERO, limit: Duration::ZERO }
    }
}

/// One builtin.
pub(super) struct Builtin {
    pub(super) name: &'static str,
    pub(super) arity: u8,
    call: fn(&[Value]) -> Answer,
    resolved: BuiltinFcn,
}

macro_rules! builtins {
    ($($name:literal $arity:literal $call:path,)*) => {
        &[$(Builtin {
            name: $name,
            arity: $arity,
            call: |arguments| $call(arguments).into(),
            resolved: (|_, _, arguments, _| Ok(Answer::from($call(arguments)).0.map_err(LimitError::from)?), $arity),
        },)*]
    };
}

/// Every builtin of this room.
pub(super) const ALL: &[Builtin] = builtins![
    "array.flatten" 1 lists::flatten,
    "crypto.hmac.equal" 2 digest::hmac_equal,
    "crypto.hmac.md5" 2 digest::hmac_md5,
    "crypto.hmac.sha1" 2 digest::hmac_sha1,
    "crypto.hmac.sha256" 2 digest::hmac_sha256,
    "crypto.hmac.sha512" 2 digest::hmac_sha512,
    "crypto.md5" 1 digest::md5,
    "crypto.sha1" 1 digest::sha1,
    "crypto.sha256" 1 digest::sha256,
    "crypto.x509.parse_and_verify_certificates" 1 chain::verify,
    "crypto.x509.parse_and_verify_certificates_with_options" 2 chain::verify_with_options,
    "crypto.x509.parse_certificates" 1 certificate::parse,
    "graphql.is_valid" 2 graphql::is_valid,
    "graphql.parse" 2 graphql::parse,
    "graphql.parse_and_verify" 2 graphql::parse_and_verify,
    "graphql.parse_query" 1 graphql::parse_query,
    "graphql.parse_schema" 1 graphql::parse_schema,
    "graphql.schema_is_valid" 1 graphql::schema_is_valid,
    "io.jwt.decode" 1 jwt::decode,
    "io.jwt.decode_verify" 2 jwt::decode_verify,
    "io.jwt.verify_eddsa" 2 jwt::verify_eddsa,
    "io.jwt.verify_es256" 2 jwt::verify_es256,
    "io.jwt.verify_es384" 2 jwt::verify_es384,
    "io.jwt.verify_es512" 2 jwt::verify_es512,
    "io.jwt.verify_hs256" 2 jwt::verify_hs256,
    "io.jwt.verify_hs384" 2 jwt::verify_hs384,
    "io.jwt.verify_hs512" 2 jwt::verify_hs512,
    "io.jwt.verify_ps256" 2 jwt::verify_ps256,
    "io.jwt.verify_ps384" 2 jwt::verify_ps384,
    "io.jwt.verify_ps512" 2 jwt::verify_ps512,
    "io.jwt.verify_rs256" 2 jwt::verify_rs256,
    "io.jwt.verify_rs384" 2 jwt::verify_rs384,
    "io.jwt.verify_rs512" 2 jwt::verify_rs512,
    "net.cidr_contains" 2 network::contains,
    "net.cidr_contains_matches" 2 network::contains_matches,
    "net.cidr_expand" 1 network::expand,
    "net.cidr_intersects" 2 network::intersects,
    "net.cidr_is_valid" 1 network::is_valid,
    "net.cidr_merge" 1 network::merge,
    "strings.split_n" 3 lists::split_n,
    "uri.is_valid" 1 uri::is_valid,
    "uri.parse" 1 uri::parse,
];

thread_local! {
    /// Nanoseconds since 1970, once somebody asked; 0 before.
    static NOW: Cell<u128> = const { Cell::new(0) };
}

/// The builtin of this name.
pub(super) fn find(name: &str) -> Option<&'static Builtin> {
    ALL.iter().find(|builtin| builtin.name == name)
}

/// Gives the interpreter the builtins.
pub(super) fn extend(engine: &mut Engine) {
    for builtin in ALL {
        let call = builtin.call;
        let extension = move |arguments: Vec<Value>| Ok(call(&arguments).0.map_err(LimitError::from)?);
        // It fails only for a name that is there already, and no name of the table stands there twice.
        drop(engine.add_extension(builtin.name.to_owned(), builtin.arity, Box::new(extension)));
    }
}

/// What the VM's compiler has to know of those it lacks.
pub(super) fn signatures() -> Vec<(&'static str, usize)> {
    let lacking = ALL.iter().filter(|builtin| !BUILTINS.contains_key(builtin.name));
    lacking.map(|builtin| (builtin.name, usize::from(builtin.arity))).collect()
}

/// Makes every stop of a compiled program a call, and puts the others in the place of regorus' own.
///
/// # Errors
/// The compiler wrote a stop in another way than it does.
pub(super) fn resolve(program: &mut Program) -> Result<(), String> {
    for place in 0..program.instructions.len() {
        let Some(Instruction::HostAwait { dest, arg, .. }) = program.instructions.get(place).cloned() else { continue };
        let call = call_at(program, place, dest, arg).ok_or_else(|| "the compiler wrote a builtin in an unknown way".to_owned())?;
        let params_index = program.instruction_data.add_builtin_call_params(call);
        if let Some(slot) = program.instructions.get_mut(place) {
            *slot = Instruction::BuiltinCall { params_index };
        }
    }
    program.has_host_await = false;
    for (info, slot) in program.builtin_info_table.iter().zip(&mut program.resolved_builtins) {
        if let Some(builtin) = find(&info.name) {
            *slot = builtin.resolved;
        }
    }
    Ok(())
}

/// The compiler packs the arguments into an array five instructions before the stop, and loads the name right before it.
fn call_at(program: &mut Program, place: usize, dest: u8, packed: u8) -> Option<BuiltinCallParams> {
    let Instruction::Load { literal_idx, .. } = program.instructions.get(place.checked_sub(1)?)? else { return None };
    let Value::String(name) = program.literals.get(usize::from(*literal_idx))? else { return None };
    let builtin = find(name)?;
    let Instruction::ArrayCreate { params_index } = program.instructions.get(place.checked_sub(5)?)? else { return None };
    let array = program.instruction_data.array_create_params.get(usize::from(*params_index))?;
    if array.dest != packed || array.elements.len() != usize::from(builtin.arity) {
        return None;
    }
    let mut args = [0; 8];
    args.iter_mut().zip(&array.elements).for_each(|(slot, element)| *slot = *element);
    let known = program.builtin_info_table.iter().position(|info| info.name == builtin.name);
    let builtin_index = known.unwrap_or(program.builtin_info_table.len());
    if known.is_none() {
        program.builtin_info_table.push(BuiltinInfo { name: builtin.name.to_owned(), num_args: u16::from(builtin.arity) });
        program.resolved_builtins.push(builtin.resolved);
    }
    Some(BuiltinCallParams { dest, builtin_index: u16::try_from(builtin_index).ok()?, num_args: builtin.arity, args })
}

/// True when a call of this name looks at the clock: one of those that take the time to judge by, where it is not written out.
pub(super) fn reads_clock(name: &str, arguments: &[Ref<Expr>]) -> bool {
    let given = |key: &str| {
        let Some(Expr::Object { fields, .. }) = arguments.get(1).map(AsRef::as_ref) else { return false };
        fields.iter().any(|(_, name, _)| walk::text(name).is_some_and(|name| name == key))
    };
    match name {
        "io.jwt.decode_verify" => !given("time"),
        "crypto.x509.parse_and_verify_certificates" => true,
        "crypto.x509.parse_and_verify_certificates_with_options" => !given("CurrentTime"),
        _ => false,
    }
}

/// An evaluation begins: the next who asks reads the clock.
pub(super) fn begin() {
    NOW.set(0);
}

/// Nanoseconds since 1970; within one evaluation always the same.
fn now() -> u128 {
    if NOW.get() == 0 {
        NOW.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos()));
    }
    NOW.get()
}

/// The text of an argument.
fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
