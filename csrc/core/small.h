// Small<T, N>: a move-only vector whose first N elements need no heap, for the short lists that every op
// handles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>

namespace edfcore {

template <class T, std::size_t N = 6>
class Small {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Small() = default;
  explicit Small(std::size_t size) { resize(size); }

  void push_back(const T& value) {
    resize(size_ + 1);
    (*this)[size_ - 1] = value;
  }
  void resize(std::size_t size) {
    if (size > capacity_) {
      const std::size_t larger = std::max(size, 2 * capacity_);
      auto heap = std::make_unique<T[]>(larger);
      std::copy(begin(), end(), heap.get());
      heap_ = std::move(heap);
      capacity_ = larger;
    }
    size_ = size;
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return heap_ ? heap_.get() : inline_; }
  const T* data() const { return heap_ ? heap_.get() : inline_; }
  T& operator[](std::size_t i) { return data()[i]; }
  const T& operator[](std::size_t i) const { return data()[i]; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  operator std::span<T>() { return {data(), size_}; }
  operator std::span<const T>() const { return {data(), size_}; }

 private:
  T inline_[N]{};
  std::unique_ptr<T[]> heap_;
  std::size_t size_ = 0;
  std::size_t capacity_ = N;
};

}  // namespace edfcore
