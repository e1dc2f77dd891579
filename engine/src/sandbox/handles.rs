//! The resources a guest holds: for each, what it is and its properties. Handles are numbers of this run; what is on record are ids.

use serde_json::Value;

use super::limits::Breach;

/// One resource.
#[derive(Debug, Clone)]
pub struct Resource {
    /// `types/backup`
    pub kind: String,
    /// What its getters answer, and what it stands for in a request. A builder's fields, or the properties of something with an `id`.
    pub properties: Value,
}

impl Resource {
    /// How it stands in the journal: by its id, or, without one (a builder), as its whole content.
    pub fn canonical(&self) -> Value {
        canonical(&self.properties)
    }
}

/// What stands for a resource on record: its id; for a backup also store and digest, because its copies have one id.
pub(crate) fn canonical(properties: &Value) -> Value {
    match (properties.get("id"), properties.get("store"), properties.get("digest")) {
        (Some(id), Some(store), Some(digest)) if properties.get("backup").is_none() => {
            serde_json::json!({"id": id, "store": store, "digest": digest})
        }
        (Some(id), ..) => id.clone(),
        (None, ..) => properties.clone(),
    }
}

/// All resources of one guest.
#[derive(Debug)]
pub struct Handles {
    slots: Vec<Option<Resource>>,
    free: Vec<u32>,
    live: usize,
    max: usize,
}

impl Handles {
    /// None yet, and never more than `max` at once.
    pub fn new(max: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), live: 0, max }
    }

    /// Keeps a resource; gives its number.
    pub fn insert(&mut self, resource: Resource) -> Result<u32, Breach> {
        if self.live >= self.max {
            return Err(Breach::Handles);
        }
        self.live += 1;
        if let Some(number) = self.free.pop() {
            self.slots[number as usize] = Some(resource);
            return Ok(number);
        }
        let number = u32::try_from(self.slots.len()).map_err(|_| Breach::Handles)?;
        self.slots.push(Some(resource));
        Ok(number)
    }

    /// The resource of a number.
    pub fn get(&self, number: u32) -> Option<&Resource> {
        self.slots.get(number as usize)?.as_ref()
    }

    /// The same, to change.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Resource> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    /// Takes it out.
    pub fn remove(&mut self, number: u32) -> Option<Resource> {
        let taken = self.slots.get_mut(number as usize)?.take()?;
        self.live -= 1;
        self.free.push(number);
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_and_the_flood_stops() {
        let resource = || Resource { kind: "x/y".into(), properties: Value::Null };
        let mut handles = Handles::new(2);
        let first = handles.insert(resource()).unwrap();
        handles.insert(resource()).unwrap();
        assert_eq!(handles.insert(resource()), Err(Breach::Handles));
        handles.remove(first).unwrap();
        assert!(handles.remove(first).is_none(), "a double drop takes nothing");
        assert_eq!(handles.insert(resource()), Ok(first));
    }
}
