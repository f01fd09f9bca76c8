//! What a call nearly never has.

/// A value that is nearly always absent: 8 bytes, and one comparison when it is dropped.
#[derive(Debug)]
pub(crate) struct Rare<T>(Option<Box<T>>);

impl<T> Rare<T> {
    pub(crate) const NONE: Self = Self(None);

    #[cold]
    pub(crate) fn some(value: T) -> Self {
        Self(Some(Box::new(value)))
    }

    #[inline(always)]
    pub(crate) const fn is_none(&self) -> bool {
        self.0.is_none()
    }

    #[inline(always)]
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }

    #[inline(always)]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    #[cold]
    pub(crate) fn get_or_insert_with(&mut self, value: impl FnOnce() -> T) -> &mut T {
        self.0.get_or_insert_with(|| Box::new(value()))
    }

    /// Drops the value, where there is one.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        #[cold]
        fn end<T>(value: Box<T>) {
            drop(value);
        }

        if let Some(value) = self.0.take() {
            end(value);
        }
    }
}

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Self::NONE
    }
}

impl<T> Drop for Rare<T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.clear();
    }
}
