//! Which objects a reader wants.

use api::selector::{FieldSelector, LabelSelector};

use super::Entry;

/// The rules of a kind, which know its selectable fields.
pub(crate) type Fields = crate::registry::Rules;

/// Namespace, name and selectors of a list or watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only this namespace; all when empty.
    pub namespace: String,
    /// Only this name; all when empty.
    pub name: String,
    /// Label selector; everything when empty.
    pub labels: LabelSelector,
    /// Field selector; everything when empty.
    pub fields: FieldSelector,
}

impl Filter {
    /// Whether labels and fields do not matter.
    pub(crate) fn is_unselective(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether an object is wanted.
    pub(crate) fn matches(&self, entry: &Entry, rules: &Fields) -> bool {
        if !self.namespace.is_empty() && self.namespace != entry.namespace() {
            return false;
        }
        if !self.name.is_empty() && self.name != entry.name() {
            return false;
        }
        if self.is_unselective() {
            return true;
        }
        let selectable = entry.selectable(&**rules);
        let label = |key: &str| {
            selectable
                .labels
                .iter()
                .find(|(own, _)| own == key)
                .map(|(_, value)| value.as_str())
        };
        let field = |key: &str| {
            Some(match key {
                "metadata.name" => entry.name().to_owned(),
                "metadata.namespace" => entry.namespace().to_owned(),
                other => selectable
                    .fields
                    .iter()
                    .find(|(own, _)| *own == other)
                    .map(|(_, value)| value.clone())
                    .or_else(|| {
                        let declared = selectable.declared.iter();
                        let mut found = declared.filter(|(own, _)| own == other);
                        Some(found.next()?.1.clone())
                    })?,
            })
        };
        self.labels.matches_with(label) && self.fields.matches(field)
    }
}
