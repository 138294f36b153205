//! What a schema cannot say of signatures: keys that exist, and secrets that stand somewhere else.

use super::super::document::Place;
use super::{Check, not_empty};

impl<'a> Check<'a> {
    pub(super) fn signatures(&mut self) {
        self.keys_form(&["keys"], not_empty);
        for (_, key) in self.at(&["keys"]).iter().flat_map(Place::entries) {
            self.secret_of_signatures(&key);
        }
        let places = [self.at(&["policy", "bundles"]), self.at(&["policy", "shadow", "bundles"])];
        for (_, bundle) in places.iter().flatten().flat_map(Place::entries) {
            if let Some(signing) = bundle.child("signing") {
                self.signing(&signing);
            }
        }
    }

    /// A public key may stand here; the secret of an HMAC would be in every copy of the configuration.
    fn secret_of_signatures(&mut self, key: &Place<'a>) {
        let symmetric = key.child("algorithm").as_ref().and_then(Place::text).is_some_and(|name| name.starts_with("HS"));
        let Some(place) = key.child("key") else { return };
        let Some(scalar) = place.scalar() else { return };
        if symmetric && !scalar.expanded && place.text().is_some_and(|text| !text.starts_with("file:")) {
            // Not quoted: it may be the secret.
            let hint = "write file:PATH, or ${NAME} for a variable of the environment".to_owned();
            self.say(&place, "a secret does not belong into the configuration", Some(hint));
        }
    }

    fn signing(&mut self, signing: &Place<'a>) {
        let known = self.at(&["keys"]).and_then(|keys| keys.length()).unwrap_or_default();
        if known == 0 {
            let hint = "write them under `keys` at the top: {name: {key: file:bundles.pem, algorithm: RS256}}".to_owned();
            self.say(signing, "there is no key to verify signatures with", Some(hint));
        } else if let Some(id) = signing.child("keyid") {
            self.names_one_of(&id, &["keys"], "key");
        }
        self.items_form(signing, "exclude_files", not_empty);
        self.child_form(signing, "allow_rollback_to", not_empty);
    }
}
