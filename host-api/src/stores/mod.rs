//! stub
/// stub
pub struct ObjectStore;
impl ObjectStore {
    /// stub
    pub fn open(_name: &str, _binding: &crate::bindings::Store) -> crate::Result<Self> {
        todo!()
    }
}
