// Small<T, N>: a move-only vector whose first N elements need no heap, for the short lists that every op
// handles. Room that is not used is never written.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

namespace edfcore {

template <class T, std::size_t N = 6>
class Small {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  Small() noexcept {}  // not "= default": `Small<T> s{}` would clear all of it
  explicit Small(std::size_t size) { resize(size); }
  Small(Small&& other) noexcept { take(other); }
  Small& operator=(Small&& other) noexcept {
    if (this != &other) take(other);
    return *this;
  }

  void push_back(const T& value) {
    const T copy = value;  // `value` may be one of ours
    reserve(size_ + 1);
    std::construct_at(data() + size_++, copy);
  }
  void resize(std::size_t size) {
    reserve(size);
    for (; size_ < size; ++size_) std::construct_at(data() + size_);
    size_ = static_cast<std::uint32_t>(size);
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return heap_ ? heap_.get() : std::launder(reinterpret_cast<T*>(inline_)); }
  const T* data() const { return heap_ ? heap_.get() : std::launder(reinterpret_cast<const T*>(inline_)); }
  T& operator[](std::size_t i) { return data()[i]; }
  const T& operator[](std::size_t i) const { return data()[i]; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  operator std::span<T>() { return {data(), size_}; }
  operator std::span<const T>() const { return {data(), size_}; }

 private:
  void reserve(std::size_t size) {
    if (size <= capacity_) return;
    const std::size_t larger = std::max(size, std::size_t{2} * capacity_);
    auto heap = std::make_unique<T[]>(larger);
    std::copy(begin(), end(), heap.get());
    heap_ = std::move(heap);
    capacity_ = static_cast<std::uint32_t>(larger);
  }
  void take(Small& other) noexcept {
    heap_ = std::move(other.heap_);
    size_ = std::exchange(other.size_, 0u);
    capacity_ = std::exchange(other.capacity_, std::uint32_t{N});
    if (heap_) return;
    if constexpr (sizeof inline_ <= 64)  // all of it, without a call
      std::memcpy(inline_, other.inline_, sizeof inline_);
    else
      std::uninitialized_copy_n(std::launder(reinterpret_cast<const T*>(other.inline_)), size_, data());
  }

  alignas(T) std::byte inline_[N * sizeof(T)];
  std::unique_ptr<T[]> heap_;
  std::uint32_t size_ = 0;
  std::uint32_t capacity_ = N;
};

}  // namespace edfcore
