//! The members of client metadata: which we know, and which was meant by one that we do not know.

use countersign::protocol::metadata::ClientMetadata;
use serde::Deserialize as _;
use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};
use serde_json::{Map, Value};

use super::terminal::warn;

/// Names what was given and is not registered. Null is the same as nothing.
pub fn warn_of_unknown(members: &Map<String, Value>) {
    let known = known();
    for (name, _) in members.iter().filter(|(name, value)| !value.is_null() && !known.contains(&name.as_str())) {
        match meant(name, known) {
            Some(close) => {
                warn(&format!("`{name}` is not a member that we know; it was ignored; did you mean `{close}`?"));
            }
            None => warn(&format!("`{name}` is not a member that we know; it was ignored")),
        }
    }
}

fn known() -> &'static [&'static str] {
    let mut names: &[&str] = &[];
    // An error as must be: it reads the names and no value.
    drop(ClientMetadata::deserialize(Names(&mut names)));
    names
}

/// Asked for a struct, keeps the names of its fields.
struct Names<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom(name))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("no struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn meant(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let (steps, close) = known.iter().map(|known| (strsim::levenshtein(name, known), *known)).min()?;
    (steps <= 2.max(name.len() / 6)).then_some(close)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_is_nearly_known_is_recognised() {
        let known = known();
        assert!(known.contains(&"redirect_uris") && known.contains(&"skip_consent"), "{known:?}");
        for (name, close) in [
            ("redirect_uri", Some("redirect_uris")),
            ("redirectUris", Some("redirect_uris")),
            ("scopes", Some("scope")),
            ("token_endpoint_auth_methods", Some("token_endpoint_auth_method")),
            ("software_statement", None),
            ("id", None),
        ] {
            assert_eq!(meant(name, known), close, "{name}");
        }
    }
}
