//! A state as its fields, each as JSON.

use std::borrow::Cow;

use serde::{
    Serialize, Serializer,
    ser::{Error as _, Impossible, SerializeStruct},
};
use serde_json::{Error, Value};

/// The name under which a state is known that is no JSON object.
const WHOLE: &str = "state";

/// The fields of a state, in its own order.
#[derive(Debug)]
pub(crate) struct Fields {
    all: Vec<(Cow<'static, str>, Value)>,
    is_object: bool,
}

/// Takes a struct apart, which costs a third of what it costs to make a JSON object of it: neither
/// names are copied nor is a tree made. Anything else is an error.
struct OfStruct;

// ===== impl Fields =====

impl Fields {
    pub(crate) fn of(state: &impl Serialize) -> Result<Self, Error> {
        // What cannot be JSON is an error of the second way too.
        if let Ok(fields) = state.serialize(OfStruct) {
            return Ok(fields);
        }
        Ok(match serde_json::to_value(state)? {
            Value::Object(object) => {
                let all = object.into_iter().map(|(name, value)| (name.into(), value));
                Self { all: all.collect(), is_object: true }
            }
            whole => Self { all: vec![(WHOLE.into(), whole)], is_object: false },
        })
    }

    /// Returns the names of fields that two states do not have alike.
    pub(crate) fn changed<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let own = self.all.iter().enumerate();
        let own = own.filter(|(place, (name, value))| other.at(*place, name) != Some(value));
        let others = other.all.iter().enumerate();
        let others = others.filter(|(place, (name, _))| self.at(*place, name).is_none());
        own.chain(others).map(|(_, (name, _))| &**name)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.at(0, name)
    }

    /// Returns a field, which is mostly where another state of the same type has it.
    fn at(&self, place: usize, name: &str) -> Option<&Value> {
        let is_it = |(own, _): &&(Cow<'static, str>, Value)| own == name;
        let there = self.all.get(place).filter(is_it);
        there.or_else(|| self.all.iter().find(is_it)).map(|(_, value)| value)
    }

    pub(crate) fn put(&mut self, name: &str, value: Option<&Value>) {
        let place = self.all.iter().position(|(own, _)| own == name);
        match (place, value) {
            (Some(place), Some(value)) => self.all[place].1.clone_from(value),
            (Some(place), None) => drop(self.all.remove(place)),
            (None, Some(value)) => self.all.push((name.to_owned().into(), value.clone())),
            (None, None) => {}
        }
    }

    /// Returns whether they are those of an object; anything else is one field.
    pub(crate) const fn are_of_object(&self) -> bool {
        self.is_object
    }

    /// Makes them one field, as a state that is no object is.
    pub(crate) fn into_whole(self) -> Self {
        Self { all: vec![(WHOLE.into(), self.into_json())], is_object: false }
    }

    /// Returns them as the JSON of a state.
    pub(crate) fn into_json(self) -> Value {
        let mut all = self.all.into_iter();
        if self.is_object {
            all.map(|(name, value)| (name.into_owned(), value)).collect()
        } else {
            all.next().map(|(_, whole)| whole).unwrap_or_default()
        }
    }
}

impl SerializeStruct for Fields {
    type Ok = Self;
    type Error = Error;

    fn serialize_field<T>(&mut self, name: &'static str, value: &T) -> Result<(), Error>
    where
        T: Serialize + ?Sized,
    {
        self.all.push((name.into(), serde_json::to_value(value)?));
        Ok(())
    }

    fn end(self) -> Result<Self, Error> {
        Ok(self)
    }
}

// ===== impl OfStruct =====

/// Refuses all of these.
macro_rules! no_struct {
    ($($method:ident$(<$t:ident>)?($($argument:ty),*) -> $ok:ident;)*) => {$(
        fn $method$(<$t: Serialize + ?Sized>)?(self $(, _: $argument)*) -> Result<Self::$ok, Error> {
            Err(Error::custom("no struct"))
        }
    )*};
}

impl Serializer for OfStruct {
    type Ok = Fields;
    type Error = Error;
    type SerializeSeq = Impossible<Fields, Error>;
    type SerializeTuple = Impossible<Fields, Error>;
    type SerializeTupleStruct = Impossible<Fields, Error>;
    type SerializeTupleVariant = Impossible<Fields, Error>;
    type SerializeMap = Impossible<Fields, Error>;
    type SerializeStruct = Fields;
    type SerializeStructVariant = Impossible<Fields, Error>;

    fn serialize_struct(self, _: &'static str, fields: usize) -> Result<Fields, Error> {
        Ok(Fields { all: Vec::with_capacity(fields), is_object: true })
    }

    no_struct! {
        serialize_bool(bool) -> Ok;
        serialize_i8(i8) -> Ok;
        serialize_i16(i16) -> Ok;
        serialize_i32(i32) -> Ok;
        serialize_i64(i64) -> Ok;
        serialize_u8(u8) -> Ok;
        serialize_u16(u16) -> Ok;
        serialize_u32(u32) -> Ok;
        serialize_u64(u64) -> Ok;
        serialize_f32(f32) -> Ok;
        serialize_f64(f64) -> Ok;
        serialize_char(char) -> Ok;
        serialize_str(&str) -> Ok;
        serialize_bytes(&[u8]) -> Ok;
        serialize_none() -> Ok;
        serialize_some<T>(&T) -> Ok;
        serialize_unit() -> Ok;
        serialize_unit_struct(&'static str) -> Ok;
        serialize_unit_variant(&'static str, u32, &'static str) -> Ok;
        serialize_newtype_struct<T>(&'static str, &T) -> Ok;
        serialize_newtype_variant<T>(&'static str, u32, &'static str, &T) -> Ok;
        serialize_seq(Option<usize>) -> SerializeSeq;
        serialize_tuple(usize) -> SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant;
        serialize_map(Option<usize>) -> SerializeMap;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> SerializeStructVariant;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Serialize)]
    struct Trade {
        ticker: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        price: Option<f64>,
        news: Vec<Option<u8>>,
    }

    #[derive(Serialize)]
    struct Flat {
        count: u8,
        #[serde(flatten)]
        trade: Trade,
    }

    #[derive(Serialize)]
    struct Wrapped(Trade);

    #[derive(Serialize)]
    enum Phase {
        Idle,
        Trading { ticker: &'static str },
    }

    const fn trade(price: Option<f64>) -> Trade {
        Trade { ticker: "AAPL", price, news: Vec::new() }
    }

    #[test]
    fn fields_are_those_of_the_json() {
        fn agree(state: &impl Serialize) {
            let json = serde_json::to_value(state).unwrap();
            let fields = Fields::of(state).unwrap();
            let same = Fields::of(&json).unwrap();
            assert_eq!(fields.changed(&same).count(), 0, "{fields:?}");
            assert_eq!(fields.into_json(), json);
            assert_eq!(same.into_whole().into_json(), json);
        }
        agree(&trade(Some(f64::NAN)));
        agree(&trade(None));
        agree(&Flat { count: 1, trade: trade(Some(0.5)) });
        agree(&Wrapped(trade(Some(0.5))));
        agree(&Phase::Idle);
        agree(&Phase::Trading { ticker: "AAPL" });
        agree(&Some(trade(None)));
        agree(&(1, "two"));
        agree(&BTreeMap::from([(1, 2)]));
    }

    #[test]
    fn fields_that_come_and_go_are_changed() {
        let (with, without) = (trade(Some(0.5)), trade(None));
        let [with, without] = [&with, &without].map(|state| Fields::of(state).unwrap());
        assert_eq!(with.changed(&without).collect::<Vec<_>>(), ["price"]);
        assert_eq!(without.changed(&with).collect::<Vec<_>>(), ["price"]);
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        let keys_are_no_text = BTreeMap::from([((1, 2), 3)]);
        assert!(Fields::of(&keys_are_no_text).is_err());
    }
}
