"""Changes of basis along an axis that everything treats linearly: exact, and worth it because of what is cut then."""
