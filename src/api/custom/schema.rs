//! The compiled form of a JSON schema.

use std::collections::BTreeMap;

use serde_json::Value;

use super::formats;
use super::pattern::Pattern;
use crate::schema::ListType;

/// The type that a schema asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum JsonType {
    /// None: any.
    #[default]
    Any,
    String,
    Number,
    Integer,
    Boolean,
    Array,
    Object,
    /// A name that is no type; definitions from before types were checked have such.
    Other,
}

impl JsonType {
    fn parse(name: &str) -> Self {
        match name {
            "" => Self::Any,
            "string" => Self::String,
            "number" => Self::Number,
            "integer" => Self::Integer,
            "boolean" => Self::Boolean,
            "array" => Self::Array,
            "object" => Self::Object,
            _ => Self::Other,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::String => "string",
            Self::Number => "number",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Array => "array",
            Self::Object => "object",
            Self::Other => "unknown",
        }
    }
}

/// Entries of an object that are no properties.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    /// Nothing is said about them.
    #[default]
    Unsaid,
    /// Any, or none.
    Allowed(bool),
    /// Those that match.
    Schema(Box<Schema>),
}

/// A schema: structure first, then what restricts values.
#[derive(Debug, Default)]
pub struct Schema {
    pub(crate) json_type: JsonType,
    pub(crate) nullable: bool,
    pub(crate) default: Option<Value>,
    pub(crate) preserves_unknown: bool,
    pub(crate) is_embedded: bool,
    pub(crate) is_int_or_string: bool,
    pub(crate) list_type: Option<ListType>,
    pub(crate) list_keys: Vec<String>,
    pub(crate) is_atomic_map: bool,
    pub(crate) items: Option<Box<Schema>>,
    pub(crate) properties: BTreeMap<String, Schema>,
    pub(crate) additional: Additional,
    /// The format, where it is one that is checked.
    pub(crate) format: String,
    pub(crate) rules: Option<Box<Rules>>,
}

/// What restricts values, which most schemas have little of.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_maximum: bool,
    pub(crate) minimum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) max_length: Option<i64>,
    pub(crate) min_length: Option<i64>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) max_items: Option<i64>,
    pub(crate) min_items: Option<i64>,
    pub(crate) unique_items: bool,
    pub(crate) max_properties: Option<i64>,
    pub(crate) min_properties: Option<i64>,
    pub(crate) required: Vec<String>,
    pub(crate) choices: Vec<Value>,
    pub(crate) all_of: Vec<Schema>,
    pub(crate) any_of: Vec<Schema>,
    pub(crate) one_of: Vec<Schema>,
    pub(crate) not: Option<Box<Schema>>,
}

impl Schema {
    /// Compiles a `JSONSchemaProps`. What validation refuses is ignored.
    pub fn new(json: &Value) -> Self {
        let text = |name: &str| json[name].as_str().unwrap_or_default();
        let flag = |name: &str| json[name] == true;
        let json_type = JsonType::parse(text("type"));
        let is_int_or_string = flag("x-kubernetes-int-or-string");
        let format = text("format");
        Self {
            json_type,
            nullable: flag("nullable"),
            default: json.get("default").filter(|it| !it.is_null()).cloned(),
            preserves_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            is_embedded: flag("x-kubernetes-embedded-resource"),
            is_int_or_string,
            list_type: match text("x-kubernetes-list-type") {
                "set" => Some(ListType::Set),
                "map" => Some(ListType::Map),
                "atomic" => Some(ListType::Atomic),
                _ => None,
            },
            list_keys: strings(&json["x-kubernetes-list-map-keys"]),
            is_atomic_map: text("x-kubernetes-map-type") == "atomic",
            items: json["items"]
                .is_object()
                .then(|| Box::new(Self::new(&json["items"]))),
            properties: json["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, property)| (name.clone(), Self::new(property)))
                .collect(),
            additional: match &json["additionalProperties"] {
                Value::Bool(allowed) => Additional::Allowed(*allowed),
                Value::Object(_) => {
                    Additional::Schema(Box::new(Self::new(&json["additionalProperties"])))
                }
                _ => Additional::Unsaid,
            },
            format: if formats::is_checked(json_type, is_int_or_string, format) {
                format.to_owned()
            } else {
                String::new()
            },
            rules: Rules::new(json).map(Box::new),
        }
    }

    /// The schema of an entry that is no property; `None` where nothing is known of it.
    pub(crate) fn additional_schema(&self) -> Option<&Self> {
        match &self.additional {
            Additional::Schema(schema) => Some(schema),
            _ => None,
        }
    }

    /// The schema of a field or entry.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        self.properties
            .get(name)
            .or_else(|| self.additional_schema())
    }
}

impl Rules {
    fn new(json: &Value) -> Option<Self> {
        let each = |name: &str| -> Vec<Schema> {
            let all = json[name].as_array().into_iter().flatten();
            all.map(Schema::new).collect()
        };
        let rules = Self {
            maximum: json["maximum"].as_f64(),
            exclusive_maximum: json["exclusiveMaximum"] == true,
            minimum: json["minimum"].as_f64(),
            exclusive_minimum: json["exclusiveMinimum"] == true,
            multiple_of: json["multipleOf"].as_f64(),
            max_length: json["maxLength"].as_i64(),
            min_length: json["minLength"].as_i64(),
            pattern: json["pattern"]
                .as_str()
                .filter(|it| !it.is_empty())
                .map(Pattern::new),
            max_items: json["maxItems"].as_i64(),
            min_items: json["minItems"].as_i64(),
            unique_items: json["uniqueItems"] == true,
            max_properties: json["maxProperties"].as_i64(),
            min_properties: json["minProperties"].as_i64(),
            required: strings(&json["required"]),
            choices: json["enum"].as_array().cloned().unwrap_or_default(),
            all_of: each("allOf"),
            any_of: each("anyOf"),
            one_of: each("oneOf"),
            not: json["not"]
                .is_object()
                .then(|| Box::new(Schema::new(&json["not"]))),
        };
        (!rules.is_empty()).then_some(rules)
    }

    fn is_empty(&self) -> bool {
        let numbers =
            self.maximum.is_none() && self.minimum.is_none() && self.multiple_of.is_none();
        let sizes = [
            self.max_length,
            self.min_length,
            self.max_items,
            self.min_items,
            self.max_properties,
            self.min_properties,
        ];
        let schemas = [&self.all_of, &self.any_of, &self.one_of];
        numbers
            && sizes.iter().all(Option::is_none)
            && self.pattern.is_none()
            && !self.unique_items
            && self.required.is_empty()
            && self.choices.is_empty()
            && schemas.iter().all(|it| it.is_empty())
            && self.not.is_none()
    }
}

pub(super) fn strings(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}
